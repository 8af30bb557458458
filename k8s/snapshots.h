/* struct snapshot_ops on a cluster: asks the apiserver each time, because clones and backups are rare and the
 * API of VolumeSnapshots is one that a cluster need not have. Whether it does is remembered for a while. */
#pragma once

#include "backend/snapshots.h"
#include "k8s/client.h"

struct k8s_snapshots;
/* `client` is borrowed. */
struct k8s_snapshots *k8s_snapshots_new(struct k8s_client *client);
void k8s_snapshots_free(struct k8s_snapshots *s); /* NULL is fine */

bool k8s_snapshots_check(struct k8s_snapshots *s, const char *class, struct error *err);
/* `value` NULL: whatever the label's value is. */
bool k8s_snapshots_list(struct k8s_snapshots *s, const char *namespace, const char *label, const char *value,
                        struct object_list *out, struct error *err);
struct object *k8s_snapshots_get(struct k8s_snapshots *s, const char *namespace, const char *name,
                                 struct error *err);

/* Pure: whether a snapshot of class `class` (NULL: the default one) can be made, by a
 * VolumeSnapshotClassList. */
bool snapshot_class_usable(const json_t *list, const char *class, struct error *err);
/* Pure: whether an APIGroupList has snapshot.storage.k8s.io/v1, and an APIResourceList (NULL: none) a kind.
 */
bool snapshot_group_present(const json_t *groups);
bool snapshot_resource_present(const json_t *resources, const char *plural);
