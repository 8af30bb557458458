#include "controller/rights.h"

#include "backend/warmpool.h"
#include "common/bytes.h"

/* Rows of permissions that one cannot do without leave the last member out. */
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

#define COUNT(table) (sizeof(table) / sizeof *(table))

/* In every namespace that is served. */
static const struct permission served[] = {
    {"agenttier.io", "sandboxes", "", NULL, "get list watch patch", "sandboxes"},
    {"agenttier.io", "sandboxes", "status", NULL, "patch", "what sandboxes are said to be doing"},
    {"", "pods", "", NULL, "get list watch create patch delete", "starting and stopping sandboxes"},
    {"", "persistentvolumeclaims", "", NULL, "get list watch create patch delete", "workspaces"},
    {"", "secrets", "", NULL, "get create patch delete", "the tokens of runtimes"},
    {"networking.k8s.io", "networkpolicies", "", NULL, "get list watch create update patch delete",
     "network policies"},
    {"", "events", "", NULL, "create", "events"},
    {"snapshot.storage.k8s.io", "volumesnapshots", "", NULL, "get create", "clones, and snapshots on stop"},
};
static const struct permission exec = {"",   "pods",       "exec",
                                       NULL, "get create", "bringing agenttier-runtime into pods"};
static const struct permission backups = {"snapshot.storage.k8s.io", "volumesnapshots",  "", NULL,
                                          "list create delete",      "scheduled backups"};
static const struct permission warm_pool = {
    "", "configmaps", "", NULL, "get list watch", "the warm pool", true, WARMPOOL_CONFIG_MAP};
static const struct permission templates[] = {
    {"agenttier.io", "sandboxtemplates", "", NULL, "list watch", "templates"},
    {"agenttier.io", "clustersandboxtemplates", "", NULL, "list watch", "templates"},
};

static size_t add(struct permission *list, size_t count, const struct permission *permission,
                  const char *namespace) {
    list[count] = *permission;
    list[count].namespace = namespace;
    return count + 1;
}

struct permission_check *rights_check(struct k8s_client *client, const struct options *options,
                                      const char *const *namespaces, struct error *err) {
    size_t places = 0, count = 0;
    while (namespaces[places])
        places++;
    cleanup_free struct permission *list =
        xcalloc((places ? places : 1) * (COUNT(served) + 1) + COUNT(templates) + 3, sizeof *list);
    for (size_t i = 0; i < COUNT(templates); i++)
        count = add(list, count, &templates[i], NULL);
    for (size_t i = 0; i < (places ? places : 1); i++) {
        for (size_t k = 0; k < COUNT(served); k++)
            count = add(list, count, &served[k], namespaces[i]);
        if (options->delivery == DELIVERY_EXEC) count = add(list, count, &exec, namespaces[i]);
    }
    if (options->backup_snapshots) count = add(list, count, &backups, options->sandbox_namespace);
    count = add(list, count, &warm_pool, options->namespace);
    if (options->leader_elect) {
        const struct permission lease = {"coordination.k8s.io", "leases", "", NULL, "get create update",
                                         "election of a leader"};
        count = add(list, count, &lease, options->namespace);
    }
    return permission_check_start(client, "agenttier-controller", list, count, err);
}
