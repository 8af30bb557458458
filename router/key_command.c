/* `agenttier-router create-key`: makes an API key in the local backend's state directory or in a cluster,
 * beside running Routers or without one. Prints the key and nothing else on standard output. */
#include "router/key_command.h"

#include "common/units.h"
#include "k8s/k8s.h"
#include "local/local.h"
#include "router/keys.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

static const char usage[] =
    "Usage: agenttier-router create-key --state-dir=DIR --sub=NAME [options]\n"
    "       agenttier-router create-key --backend=kubernetes [--kubeconfig=FILE] --sub=NAME [options]\n"
    "\n"
    "Creates an API key and prints it on standard output. It is stored as a hash: this is the\n"
    "only time that it can be seen. Routers on the same directory or cluster accept it at once.\n"
    "\n"
    "  --backend=NAME      local or kubernetes; default AGENTTIER_BACKEND, else local\n"
    "  --state-dir=DIR     the local backend's directory, created when missing\n"
    "  --kubeconfig=FILE   how to log in to the cluster; default: in a pod its service account,\n"
    "                      else KUBECONFIG, else ~/.kube/config\n"
    "  --context=NAME      context of the kubeconfig; default its current one\n"
    "  --sub=NAME          the user that the key acts as\n"
    "  --email=ADDRESS     the user's e-mail address\n"
    "  --name=LABEL        what the key is for, shown in lists\n"
    "  --groups=A,B        groups of the user, for sandboxes shared with groups\n"
    "  --admin             the key has the rights of an administrator\n"
    "  --expires=DURATION  when it stops working, such as 12h or 30d; default never\n"
    "  --namespace=NAME    the Router's --namespace; default POD_NAMESPACE, else agenttier\n"
    "  --help              shows this text\n";

struct options {
    const char *backend, *state_dir, *namespace, *kubeconfig, *context;
    json_t *groups;
    struct key_request key;
};

static int wrong(const char *what) {
    fprintf(stderr, "create-key: %s\n\n%s", what, usage);
    return -1;
}

/* Go durations, and whole days, which people ask for here. */
static bool read_expiry(const char *text, int64_t *ns) {
    size_t n = strlen(text);
    uint64_t days = 0;
    if (n > 1 && text[n - 1] == 'd' && slice_parse_u64(slice_make(text, n - 1), 36500, &days)) {
        *ns = (int64_t)days * 24 * 3600 * 1000000000;
        return days > 0;
    }
    return duration_parse(text, ns) && *ns > 0;
}

static json_t *read_groups(const char *text) {
    json_t *groups = json_array();
    while (*text) {
        size_t n = strcspn(text, ",");
        struct slice group = slice_trim(slice_make(text, n));
        if (group.len > 0) json_array_append_new(groups, json_stringn(group.ptr, group.len));
        text += n + (text[n] == ',');
    }
    return groups;
}

/* 0: go on; else the command ends: 1 = help was shown, -1 = bad usage. */
static int parse(int argc, char **argv, struct options *o) {
    static const struct option known[] = {{"backend", required_argument, NULL, 'b'},
                                          {"state-dir", required_argument, NULL, 'd'},
                                          {"kubeconfig", required_argument, NULL, 'k'},
                                          {"context", required_argument, NULL, 'c'},
                                          {"sub", required_argument, NULL, 's'},
                                          {"email", required_argument, NULL, 'e'},
                                          {"name", required_argument, NULL, 'n'},
                                          {"groups", required_argument, NULL, 'g'},
                                          {"admin", no_argument, NULL, 'a'},
                                          {"expires", required_argument, NULL, 'x'},
                                          {"namespace", required_argument, NULL, 'N'},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    int c;
    opterr = 0;
    optind = 1;
    while ((c = getopt_long(argc, argv, "h", known, NULL)) != -1) {
        switch (c) {
        case 'b': o->backend = optarg; break;
        case 'k': o->kubeconfig = optarg; break;
        case 'c': o->context = optarg; break;
        case 'd': o->state_dir = optarg; break;
        case 's': o->key.user_id = optarg; break;
        case 'e': o->key.email = optarg; break;
        case 'n': o->key.name = optarg; break;
        case 'g':
            json_decref(o->groups);
            o->groups = read_groups(optarg);
            break;
        case 'a': o->key.admin = true; break;
        case 'x':
            if (!read_expiry(optarg, &o->key.expires_in_ns))
                return wrong("--expires must be a duration above zero such as 12h or 30d");
            break;
        case 'N': o->namespace = optarg; break;
        case 'h': fputs(usage, stdout); return 1;
        default: return wrong("unknown option, or an option without its value");
        }
    }
    if (optind < argc) return wrong("unexpected argument");
    if (strcmp(o->backend, "local") != 0 && strcmp(o->backend, "kubernetes") != 0)
        return wrong("--backend must be local or kubernetes");
    if (strcmp(o->backend, "local") == 0 && (!o->state_dir || !o->state_dir[0]))
        return wrong("--state-dir is required");
    if (!o->key.user_id || !o->key.user_id[0]) return wrong("--sub is required");
    return 0;
}

static bool create_local(struct options *o, char key[API_KEY_LEN + 1], struct error *err) {
    struct store *store = local_store_open(o->state_dir, err);
    if (!store) {
        error_wrap(err, "cannot open %s", o->state_dir);
        return false;
    }
    bool done = key_create(store, o->namespace, &o->key, key, NULL, err);
    local_store_close(store);
    return done;
}

static bool create_on_cluster(struct options *o, char key[API_KEY_LEN + 1], struct error *err) {
    struct k8s_options options = {
        .kubeconfig = o->kubeconfig, .context = o->context, .install_namespace = o->namespace};
    struct backend *backend = k8s_backend_open_for_writing(&options, err);
    if (!backend) return false;
    bool done = key_create(backend->store, o->namespace, &o->key, key, NULL, err);
    backend->close(backend);
    return done;
}

static int create(struct options *o) {
    cleanup_error struct error err = {0};
    char key[API_KEY_LEN + 1];
    o->key.groups = o->groups;
    bool local = strcmp(o->backend, "local") == 0;
    if (!(local ? create_local(o, key, &err) : create_on_cluster(o, key, &err))) {
        fprintf(stderr, "create-key: %s\n", err.message);
        return 1;
    }
    fprintf(stderr, "API key for %s%s; keep it, it cannot be shown again:\n", o->key.user_id,
            o->key.admin ? " (administrator)" : "");
    printf("%s\n", key);
    if (fflush(stdout) != 0) {
        fprintf(stderr, "create-key: the key could not be written; it is stored but lost: revoke it\n");
        return 1;
    }
    return 0;
}

/* As the Router's flags read it. */
static const char *from_environment(const char *name, const char *otherwise) {
    const char *value = getenv(name);
    return value && value[0] ? value : otherwise;
}

int key_command_main(int argc, char **argv) {
    struct options o = {.backend = from_environment("AGENTTIER_BACKEND", "local"),
                        .state_dir = getenv("AGENTTIER_STATE_DIR"),
                        .namespace = from_environment("POD_NAMESPACE", "agenttier"),
                        .key = {.email = "", .name = ""}};
    /* Whether the program's name or the command's comes first is the caller's choice. */
    if (argc > 1 && strcmp(argv[1], "create-key") == 0) {
        argc--;
        argv++;
    }
    int outcome = parse(argc, argv, &o);
    int status = outcome > 0 ? 0 : outcome < 0 ? 2 : create(&o);
    json_decref(o.groups);
    return status;
}
