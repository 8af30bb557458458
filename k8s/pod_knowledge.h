/* What is known of pods besides their objects: their runtime's address and token, and how many streams of
 * pods/exec are open. By pod UID, shared between threads, forgotten some time after the last use. */
#pragma once

#include "k8s/runtime_probe.h"

enum knows { KNOWS_NOTHING, KNOWS_RUNTIME, KNOWS_NO_RUNTIME };

struct pod_knowledge;
struct pod_knowledge *pod_knowledge_new(void);
void pod_knowledge_free(struct pod_knowledge *k);

/* `container_id`: of the container now; what was known of another one is nothing. */
enum knows pod_knowledge_get(struct pod_knowledge *k, const char *uid, const char *container_id,
                             struct runtime_found *out);
/* `found->there` false is believed for 10 s. */
void pod_knowledge_put(struct pod_knowledge *k, const char *uid, const char *container_id,
                       const struct runtime_found *found);
/* The runtime could not be reached: not asked for again for 10 s; or only in doubt: asked at the next use. */
void pod_knowledge_lost(struct pod_knowledge *k, const char *uid, bool unreachable);

/* One more stream of pods/exec; false: 429 too_many_execs. */
bool pod_knowledge_begin_exec(struct pod_knowledge *k, const char *uid, struct error *err);
void pod_knowledge_end_exec(struct pod_knowledge *k, const char *uid);
/* One more terminal over pods/exec, which takes nobody's place; false: 429 too_many_execs. */
bool pod_knowledge_begin_terminal(struct pod_knowledge *k, struct error *err);
void pod_knowledge_end_terminal(struct pod_knowledge *k);
int pod_knowledge_execs(struct pod_knowledge *k); /* streams of pods/exec that are open, terminals' too */
