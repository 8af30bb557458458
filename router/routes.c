/* The table of routes (http-api.md 2.1). The `doc` texts are for router/openapi.c: query parameters and
 * headers as {"name": "type: description"}, the request and the answers by the name of a schema
 * there, "binary" or "text" for bytes, null for an empty body. Every row that changes something ends with its
 * action in the history (router/audit.h). */
#include "router/handlers.h"

#define KIB(n)    ((size_t)(n) << 10)
#define MIB(n)    ((size_t)(n) << 20)
#define SANDBOX   "/api/v1/sandboxes/{id}"
#define NAMESPACE "\"namespace\": \"string: where to look the sandbox up; default: every namespace\""

/* Rows that only read leave the last member out. */
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

const struct route routes[] = {
    /* ---- without credentials ---- */
    {"GET", "/healthz", "healthz", "Liveness", AUTH_PUBLIC, GROUP_NONE, ROUTE_INLINE, PHASE_ANY, BODY_NONE, 0,
     health_live, NULL, "{\"responses\": {\"200\": \"text\"}}"},
    {"GET", "/readyz", "readyz", "Readiness: the store can be read and the server is not shutting down",
     AUTH_PUBLIC, GROUP_NONE, ROUTE_INLINE, PHASE_ANY, BODY_NONE, 0, health_ready, NULL,
     "{\"responses\": {\"200\": \"text\", \"503\": \"text\"}}"},
    {"GET", "/metrics", "metrics", "Prometheus metrics", AUTH_PUBLIC, GROUP_NONE, ROUTE_INLINE, PHASE_ANY,
     BODY_NONE, 0, metrics_get, NULL, "{\"responses\": {\"200\": \"text\"}}"},
    {"GET", "/health", "health", "Status and version", AUTH_PUBLIC, GROUP_NONE, ROUTE_INLINE, PHASE_ANY,
     BODY_NONE, 0, health_get, NULL, "{\"responses\": {\"200\": \"Health\"}}"},
    {"GET", "/api/v1/health", "getHealth", "Status and version", AUTH_PUBLIC, GROUP_NONE, ROUTE_INLINE,
     PHASE_ANY, BODY_NONE, 0, health_get, NULL, "{\"responses\": {\"200\": \"Health\"}}"},
    {"GET", "/api/v1/openapi.json", "getOpenapi", "This document", AUTH_PUBLIC, GROUP_NONE, ROUTE_INLINE,
     PHASE_ANY, BODY_NONE, 0, openapi_get, NULL, "{\"responses\": {\"200\": \"Any\"}}"},

    /* ---- sandboxes ---- */
    {"GET", "/api/v1/sandboxes", "listSandboxes", "List sandboxes: one's own, all for administrators",
     AUTH_USER, GROUP_NONE, ROUTE_INLINE, PHASE_ANY, BODY_NONE, 0, sandboxes_list, NULL,
     "{\"query\": {\"namespace\": \"string: only this namespace\", \"status\": \"string: only this phase, in "
     "any case\","
     " \"template\": \"string: only this template\", \"shared\": \"boolean: also those shared with the "
     "caller\","
     " \"limit\": \"integer: at most so many, 1 to 500\", \"continue\": \"string: cursor of the previous "
     "page\"},"
     " \"responses\": {\"200\": \"SandboxList\", \"400\": \"Error\"}}"},
    {"POST", "/api/v1/sandboxes", "createSandbox", "Create a sandbox", AUTH_USER, GROUP_NONE, ROUTE_UNARY,
     PHASE_ANY, BODY_JSON, MIB(1), sandboxes_create, NULL,
     "{\"headers\": {\"Idempotency-Key\": \"string: a retry with the same key and body creates nothing "
     "new\"},"
     " \"request\": \"SandboxCreate\", \"responses\": {\"201\": \"SandboxCreated\", \"400\": \"Error\","
     " \"403\": \"PolicyViolation\", \"409\": \"Error\"}}",
     "create", true},
    {"POST", "/api/v1/sandboxes/bulk", "createSandboxes", "Create many sandboxes, at most 100", AUTH_USER,
     GROUP_NONE, ROUTE_UNARY, PHASE_ANY, BODY_JSON, MIB(8), bulk_create, NULL,
     "{\"headers\": {\"Idempotency-Key\": \"string: a retry with the same key and body creates only what is"
     " missing\"}, \"request\": \"BulkCreate\", \"responses\": {\"200\": \"BulkCreated\", \"400\": \"Error\","
     " \"409\": \"PolicyViolation\"}}",
     "bulk.create", true},
    {"POST", "/api/v1/sandboxes/bulk-action", "actOnSandboxes", "Stop, resume or delete many sandboxes",
     AUTH_USER, GROUP_NONE, ROUTE_UNARY, PHASE_ANY, BODY_JSON, MIB(8), bulk_action, NULL,
     "{\"query\": {" NAMESPACE "}, \"request\": \"BulkAction\", \"responses\": {\"200\": \"BulkActed\","
     " \"400\": \"Error\"}}",
     "bulk.action"},
    {"GET", SANDBOX, "getSandbox", "One sandbox", AUTH_SANDBOX_READ, GROUP_ANY, ROUTE_INLINE, PHASE_ANY,
     BODY_NONE, 0, sandbox_get, NULL,
     "{\"query\": {" NAMESPACE "}, \"responses\": {\"200\": \"Sandbox\", \"404\": \"Error\"}}"},
    {"PATCH", SANDBOX, "patchSandbox", "Change idle timeout, resources, labels, annotations",
     AUTH_SANDBOX_OWNER, GROUP_NONE, ROUTE_UNARY, PHASE_ANY, BODY_JSON, MIB(1), sandbox_patch, NULL,
     "{\"query\": {" NAMESPACE
     "}, \"request\": \"SandboxPatch\", \"responses\": {\"200\": \"SandboxPatched\","
     " \"400\": \"Error\", \"403\": \"PolicyViolation\", \"404\": \"Error\", \"409\": \"Error\"}}",
     "patch"},
    {"DELETE", SANDBOX, "deleteSandbox", "Delete a sandbox and its workspace", AUTH_SANDBOX_OWNER, GROUP_NONE,
     ROUTE_UNARY, PHASE_ANY, BODY_NONE, 0, sandbox_delete, NULL,
     "{\"query\": {" NAMESPACE "}, \"responses\": {\"204\": null, \"404\": \"Error\"}}", "delete"},
    {"POST", SANDBOX "/stop", "stopSandbox", "Stop; the workspace is kept", AUTH_SANDBOX_OWNER, GROUP_STOP,
     ROUTE_UNARY, PHASE_ANY, BODY_NONE, 0, sandbox_stop, NULL,
     "{\"query\": {" NAMESPACE
     "}, \"responses\": {\"200\": \"Status\", \"404\": \"Error\", \"409\": \"Error\"}}",
     "stop"},
    {"POST", SANDBOX "/resume", "resumeSandbox", "Start again on the same workspace", AUTH_SANDBOX_OWNER,
     GROUP_RESUME, ROUTE_UNARY, PHASE_ANY, BODY_NONE, 0, sandbox_resume, NULL,
     "{\"query\": {" NAMESPACE
     "}, \"responses\": {\"200\": \"Status\", \"404\": \"Error\", \"409\": \"Error\"}}",
     "resume"},

    {"POST", SANDBOX "/clone", "cloneSandbox", "A new sandbox with a copy of the workspace",
     AUTH_SANDBOX_OWNER, GROUP_NONE, ROUTE_UNARY, PHASE_ANY, BODY_JSON_OPTIONAL, KIB(64), sandbox_clone, NULL,
     "{\"query\": {" NAMESPACE
     "}, \"headers\": {\"Idempotency-Key\": \"string: a retry with the same key and body makes no"
     " second clone\"}, \"request\": \"Clone\", \"responses\": {\"202\": \"Cloned\", \"400\": "
     "\"Error\", \"403\": \"PolicyViolation\", \"404\": \"Error\", \"409\": \"Error\","
     " \"501\": \"Error\", \"507\": \"Error\"}}",
     "clone", true},

    {"GET", SANDBOX "/backups", "listBackups", "Snapshots of the workspace: backups, and those of clones",
     AUTH_SANDBOX_OWNER, GROUP_NONE, ROUTE_UNARY, PHASE_ANY, BODY_NONE, 0, backups_list, NULL,
     "{\"query\": {" NAMESPACE
     "}, \"responses\": {\"200\": \"BackupList\", \"404\": \"Error\", \"501\": \"Error\"}}"},
    {"POST", SANDBOX "/backups", "createBackup", "Back the workspace up now", AUTH_SANDBOX_OWNER, GROUP_NONE,
     ROUTE_UNARY, PHASE_ANY, BODY_JSON_OPTIONAL, KIB(64), backups_create, NULL,
     "{\"query\": {" NAMESPACE
     "}, \"headers\": {\"Idempotency-Key\": \"string: a retry with the same key and body makes no"
     " second backup\"}, \"request\": \"BackupCreate\", \"responses\": {\"201\": \"Backup\", \"400\": "
     "\"Error\","
     " \"404\": \"Error\", \"409\": \"Error\", \"501\": \"Error\", \"507\": \"Error\"}}",
     "backup.create", true},
    {"POST", SANDBOX "/backups/{snapshotName}/restore", "restoreBackup", "A new sandbox from a backup",
     AUTH_SANDBOX_OWNER, GROUP_NONE, ROUTE_UNARY, PHASE_ANY, BODY_JSON_OPTIONAL, KIB(64), backup_restore,
     NULL,
     "{\"query\": {" NAMESPACE
     "}, \"headers\": {\"Idempotency-Key\": \"string: a retry with the same key and body makes no"
     " second sandbox\"}, \"request\": \"Restore\", \"responses\": {\"202\": \"Restored\", \"400\": "
     "\"Error\","
     " \"403\": \"PolicyViolation\", \"404\": \"Error\", \"409\": \"Error\", \"501\": \"Error\"}}",
     "backup.restore", true},
    {"DELETE", SANDBOX "/backups/{snapshotName}", "deleteBackup", "Delete a snapshot of the workspace",
     AUTH_SANDBOX_OWNER, GROUP_NONE, ROUTE_UNARY, PHASE_ANY, BODY_NONE, 0, backup_delete, NULL,
     "{\"query\": {" NAMESPACE
     "}, \"responses\": {\"200\": \"BackupDeleted\", \"404\": \"Error\", \"409\": \"Error\","
     " \"501\": \"Error\"}}",
     "backup.delete"},

    /* ---- commands ---- */
    {"POST", SANDBOX "/exec", "execCommand", "Run a command and return its outcome", AUTH_SANDBOX_USE,
     GROUP_RUN_COMMAND, ROUTE_STREAM, PHASE_RUNNING, BODY_JSON, MIB(8) + KIB(64), exec_create, NULL,
     "{\"query\": {" NAMESPACE
     "}, \"headers\": {\"Idempotency-Key\": \"string: a retry with the same key and body attaches"
     " to the first run\"}, \"request\": \"Exec\", \"responses\": {\"200\": \"ExecResult\", \"202\": "
     "\"ExecStatus\","
     " \"400\": \"Error\", \"404\": \"Error\", \"409\": \"Error\", \"429\": \"Error\", \"502\": \"Error\"}}",
     "exec", true},
    {"GET", SANDBOX "/exec/{execId}", "getExec", "Outcome of a detached or repeated command",
     AUTH_SANDBOX_USE, GROUP_RUN_COMMAND, ROUTE_STREAM, PHASE_RUNNING, BODY_NONE, 0, exec_get, NULL,
     "{\"query\": {" NAMESPACE ", \"wait\": \"integer: wait so many seconds for its end, 0 to 60\"},"
     " \"responses\": {\"200\": \"ExecStatus\", \"404\": \"Error\", \"409\": \"Error\"}}"},
    {"DELETE", SANDBOX "/exec/{execId}", "killExec", "End a command and everything it started",
     AUTH_SANDBOX_USE, GROUP_RUN_COMMAND, ROUTE_STREAM, PHASE_RUNNING, BODY_NONE, 0, exec_delete, NULL,
     "{\"query\": {" NAMESPACE "}, \"responses\": {\"204\": null, \"404\": \"Error\", \"409\": \"Error\"}}",
     "exec.kill"},

    {"GET", "/ws/terminal/{id}", "openTerminal", "A terminal in the sandbox, over WebSocket",
     AUTH_SANDBOX_WATCH, GROUP_RUN_COMMAND, ROUTE_STREAM, PHASE_RUNNING, BODY_NONE, 0, terminal_open, NULL,
     "{\"query\": {" NAMESPACE
     ", \"token\": \"string: a bearer token, for browsers that cannot send headers; no API keys\"},"
     " \"responses\": {\"101\": null, \"400\": \"text\", \"401\": \"text\", \"403\": \"text\", \"404\": "
     "\"text\","
     " \"405\": \"text\", \"409\": \"text\", \"429\": \"text\", \"503\": \"text\"}}",
     "terminal"},

    /* ---- files ---- */
    {"GET", SANDBOX "/files/", "listFiles", "List a directory", AUTH_SANDBOX_VIEW, GROUP_FILES_READ,
     ROUTE_STREAM, PHASE_RUNNING, BODY_NONE, 0, files_list, NULL,
     "{\"query\": {" NAMESPACE ", \"path\": \"string: the directory; default /workspace\"},"
     " \"responses\": {\"200\": \"FileList\", \"400\": \"Error\", \"404\": \"Error\", \"409\": \"Error\"}}"},
    {"GET", SANDBOX "/files/{path...}", "readFile", "Download a file, at most 32 MiB a call",
     AUTH_SANDBOX_VIEW, GROUP_FILES_READ, ROUTE_STREAM, PHASE_RUNNING, BODY_NONE, 0, files_read, NULL,
     "{\"query\": {" NAMESPACE
     "}, \"headers\": {\"Range\": \"string: bytes=first-last\", \"If-None-Match\": \"string: ETag\"},"
     " \"responses\": {\"200\": \"binary\", \"206\": \"binary\", \"304\": null, \"400\": \"Error\", \"404\": "
     "\"Error\","
     " \"409\": \"Error\", \"413\": \"Error\", \"416\": \"Error\"}}"},
    {"PUT", SANDBOX "/files/{path...}", "writeFile", "Upload a file, at most 32 MiB, atomically",
     AUTH_SANDBOX_USE, GROUP_FILES_WRITE, ROUTE_STREAM, PHASE_RUNNING, BODY_STREAM, MIB(32), files_write,
     NULL,
     "{\"query\": {" NAMESPACE
     "}, \"request\": \"binary\", \"responses\": {\"201\": \"FileWritten\", \"400\": \"Error\","
     " \"404\": \"Error\", \"409\": \"Error\", \"413\": \"Error\", \"507\": \"Error\"}}",
     "file.write"},
    {"DELETE", SANDBOX "/files/{path...}", "removeFile", "Delete a file or directory", AUTH_SANDBOX_USE,
     GROUP_FILES_WRITE, ROUTE_STREAM, PHASE_RUNNING, BODY_NONE, 0, files_remove, NULL,
     "{\"query\": {" NAMESPACE ", \"recursive\": \"boolean: directories with what they hold\"},"
     " \"responses\": {\"204\": null, \"400\": \"Error\", \"403\": \"Error\", \"404\": \"Error\", \"409\": "
     "\"Error\"}}",
     "file.delete"},
    {"GET", SANDBOX "/stat", "statFile", "Facts about a path; symlinks are not followed", AUTH_SANDBOX_VIEW,
     GROUP_FILES_READ, ROUTE_STREAM, PHASE_RUNNING, BODY_NONE, 0, files_stat, NULL,
     "{\"query\": {" NAMESPACE ", \"path\": \"string: the path (required)\"},"
     " \"responses\": {\"200\": \"FileStat\", \"400\": \"Error\", \"404\": \"Error\", \"409\": \"Error\"}}"},
    {"POST", SANDBOX "/mkdir", "makeDirectory", "Create a directory and its parents", AUTH_SANDBOX_USE,
     GROUP_FILES_WRITE, ROUTE_STREAM, PHASE_RUNNING, BODY_JSON, KIB(64), files_mkdir, NULL,
     "{\"query\": {" NAMESPACE
     "}, \"request\": \"Mkdir\", \"responses\": {\"200\": \"Made\", \"201\": \"Made\","
     " \"400\": \"Error\", \"403\": \"Error\", \"409\": \"Error\"}}",
     "file.mkdir"},
    {"GET", SANDBOX "/archive", "readArchive", "Download a directory as zip or tar", AUTH_SANDBOX_USE,
     GROUP_FILES_READ, ROUTE_STREAM, PHASE_RUNNING, BODY_NONE, 0, archive_read, NULL,
     "{\"query\": {" NAMESPACE ", \"path\": \"string: the directory, /workspace or below\","
     " \"format\": \"string: zip (default), tar or tar.gz\"}, \"responses\": {\"200\": \"binary\", \"400\": "
     "\"Error\","
     " \"404\": \"Error\", \"409\": \"Error\"}}"},
    {"PUT", SANDBOX "/archive", "writeArchive", "Unpack a zip or tar into a directory", AUTH_SANDBOX_USE,
     GROUP_FILES_WRITE, ROUTE_STREAM, PHASE_RUNNING, BODY_STREAM, 0, archive_write, NULL,
     "{\"query\": {" NAMESPACE ", \"path\": \"string: the directory, /workspace or below\","
     " \"format\": \"string: zip, tar or tar.gz; default by Content-Type\"}, \"request\": \"binary\","
     " \"responses\": {\"200\": \"Unpacked\", \"400\": \"Error\", \"409\": \"Error\", \"413\": \"Error\", "
     "\"507\": \"Error\"}}",
     "archive.write", true},

    /* ---- ports ---- */
    {"GET", SANDBOX "/ports", "listPorts", "List port forwards", AUTH_SANDBOX_USE, GROUP_PORTS, ROUTE_INLINE,
     PHASE_ANY, BODY_NONE, 0, ports_list, NULL,
     "{\"query\": {" NAMESPACE "}, \"responses\": {\"200\": \"PortList\", \"404\": \"Error\"}}"},
    {"POST", SANDBOX "/ports", "createPort", "Forward a port", AUTH_SANDBOX_USE, GROUP_PORTS, ROUTE_UNARY,
     PHASE_ANY, BODY_JSON, KIB(64), ports_create, NULL,
     "{\"query\": {" NAMESPACE
     "}, \"request\": \"PortCreate\", \"responses\": {\"201\": \"Port\", \"400\": \"Error\","
     " \"404\": \"Error\", \"409\": \"Error\"}}",
     "port.create"},
    {"DELETE", SANDBOX "/ports/{port}", "deletePort", "Remove a forward, by port number or name",
     AUTH_SANDBOX_USE, GROUP_PORTS, ROUTE_UNARY, PHASE_ANY, BODY_NONE, 0, ports_delete, NULL,
     "{\"query\": {" NAMESPACE "}, \"responses\": {\"204\": null, \"400\": \"Error\", \"404\": \"Error\"}}",
     "port.delete"},
    {"*", SANDBOX "/preview/{port}", "previewRoot", "The forwarded application's root", AUTH_SANDBOX_USE,
     GROUP_NONE, ROUTE_STREAM, PHASE_RUNNING, BODY_STREAM, 0, preview_proxy, preview_precheck,
     "{\"responses\": {\"200\": \"binary\", \"400\": \"Error\", \"404\": \"Error\", \"409\": \"Error\", "
     "\"502\": \"Error\"}}",
     "preview"},
    {"*", SANDBOX "/preview/{port}/{path...}", "preview", "The forwarded application", AUTH_SANDBOX_USE,
     GROUP_NONE, ROUTE_STREAM, PHASE_RUNNING, BODY_STREAM, 0, preview_proxy, preview_precheck,
     "{\"responses\": {\"200\": \"binary\", \"400\": \"Error\", \"404\": \"Error\", \"409\": \"Error\", "
     "\"502\": \"Error\"}}",
     "preview"},

    /* ---- sharing ---- */
    {"GET", SANDBOX "/share", "getSharing", "Whom the sandbox is shared with", AUTH_SANDBOX_SHARE, GROUP_NONE,
     ROUTE_INLINE, PHASE_ANY, BODY_NONE, 0, share_get, NULL,
     "{\"query\": {" NAMESPACE "}, \"responses\": {\"200\": \"Sharing\"}}"},
    {"POST", SANDBOX "/share", "shareSandbox", "Share with a user or a group, or change the level",
     AUTH_SANDBOX_SHARE, GROUP_NONE, ROUTE_UNARY, PHASE_ANY, BODY_JSON, KIB(64), share_grant, NULL,
     "{\"query\": {" NAMESPACE
     "}, \"request\": \"ShareGrant\", \"responses\": {\"200\": \"Sharing\", \"400\": \"Error\","
     " \"409\": \"Error\"}}",
     "share.create"},
    {"DELETE", SANDBOX "/share/{userId+}", "unshareSandbox", "Take a user's or group's access away, at once",
     AUTH_SANDBOX_SHARE, GROUP_NONE, ROUTE_UNARY, PHASE_ANY, BODY_NONE, 0, share_revoke, NULL,
     "{\"query\": {" NAMESPACE ", \"kind\": \"string: user or group; default: both\"},"
     " \"responses\": {\"200\": \"ShareRevoked\", \"400\": \"Error\"}}",
     "share.delete"},
    {"GET", SANDBOX "/share-links", "listShareLinks", "The links that give access to the sandbox",
     AUTH_SANDBOX_SHARE, GROUP_NONE, ROUTE_INLINE, PHASE_ANY, BODY_NONE, 0, share_links_list, NULL,
     "{\"query\": {" NAMESPACE "}, \"responses\": {\"200\": \"ShareLinkList\"}}"},
    {"POST", SANDBOX "/share-links", "createShareLink", "Make a link that gives access to the sandbox",
     AUTH_SANDBOX_SHARE, GROUP_NONE, ROUTE_UNARY, PHASE_ANY, BODY_JSON_OPTIONAL, KIB(64), share_links_create,
     NULL,
     "{\"query\": {" NAMESPACE
     "}, \"request\": \"ShareLinkCreate\", \"responses\": {\"201\": \"ShareLinkCreated\","
     " \"400\": \"Error\", \"409\": \"Error\"}}",
     "share_link.create"},
    {"DELETE", SANDBOX "/share-links/{linkId}", "deleteShareLink", "Revoke a link; who used it keeps access",
     AUTH_SANDBOX_SHARE, GROUP_NONE, ROUTE_UNARY, PHASE_ANY, BODY_NONE, 0, share_links_delete, NULL,
     "{\"query\": {" NAMESPACE "}, \"responses\": {\"200\": \"Revoked\", \"404\": \"Error\"}}",
     "share_link.delete"},
    {"POST", "/api/v1/share-links/redeem", "redeemShareLink",
     "Get access to a sandbox by the token of a link", AUTH_USER, GROUP_NONE, ROUTE_UNARY, PHASE_ANY,
     BODY_JSON, KIB(64), share_links_redeem, NULL,
     "{\"request\": \"ShareLinkRedeem\", \"responses\": {\"200\": \"ShareLinkRedeemed\", \"400\": \"Error\","
     " \"404\": \"Error\", \"409\": \"Error\", \"410\": \"Error\"}}",
     "share_link.redeem"},

    /* ---- templates ---- */
    {"GET", "/api/v1/templates", "listTemplates", "List cluster templates", AUTH_USER, GROUP_NONE,
     ROUTE_INLINE, PHASE_ANY, BODY_NONE, 0, templates_list, NULL,
     "{\"responses\": {\"200\": \"TemplateList\"}}"},
    {"POST", "/api/v1/templates", "createTemplate", "Create a template", AUTH_ADMIN, GROUP_NONE, ROUTE_UNARY,
     PHASE_ANY, BODY_JSON, MIB(1), templates_create, NULL,
     "{\"request\": \"TemplateCreate\", \"responses\": {\"201\": \"Template\", \"400\": \"Error\", \"409\": "
     "\"Error\"}}",
     "template.create"},
    {"GET", "/api/v1/templates/{name}", "getTemplate", "One template", AUTH_USER, GROUP_NONE, ROUTE_INLINE,
     PHASE_ANY, BODY_NONE, 0, template_get, NULL,
     "{\"responses\": {\"200\": \"Template\", \"404\": \"Error\"}}"},
    {"PUT", "/api/v1/templates/{name}", "replaceTemplate", "Replace a template's spec", AUTH_ADMIN,
     GROUP_NONE, ROUTE_UNARY, PHASE_ANY, BODY_JSON, MIB(1), template_put, NULL,
     "{\"request\": \"TemplateReplace\", \"responses\": {\"200\": \"Template\", \"400\": \"Error\", \"404\": "
     "\"Error\","
     " \"409\": \"Error\"}}",
     "template.replace"},
    {"DELETE", "/api/v1/templates/{name}", "deleteTemplate", "Delete a template that no running sandbox uses",
     AUTH_ADMIN, GROUP_NONE, ROUTE_UNARY, PHASE_ANY, BODY_NONE, 0, template_delete, NULL,
     "{\"responses\": {\"204\": null, \"404\": \"Error\", \"409\": \"Error\"}}", "template.delete"},

    /* ---- administration ---- */
    {"GET", "/api/v1/admin/sandboxes", "adminListSandboxes", "All sandboxes, with the keys made for them",
     AUTH_ADMIN, GROUP_NONE, ROUTE_UNARY, PHASE_ANY, BODY_NONE, 0, admin_sandboxes, NULL,
     "{\"query\": {\"namespace\": \"string: only this namespace\", \"status\": \"string: only this phase, in "
     "any case\", \"template\": \"string: only this template\","
     " \"limit\": \"integer: at most so many, 1 to 500\", \"continue\": \"string: cursor of the previous "
     "page\"}, \"responses\": {\"200\": \"AdminSandboxList\", \"400\": \"Error\"}}"},
    {"GET", "/api/v1/admin/sharing", "adminListSharing", "Whom sandboxes are shared with", AUTH_ADMIN,
     GROUP_NONE, ROUTE_UNARY, PHASE_ANY, BODY_NONE, 0, admin_sharing, NULL,
     "{\"query\": {\"namespace\": \"string: only this namespace\"}, \"responses\": {\"200\": "
     "\"AdminSharing\"}}"},
    {"GET", "/api/v1/admin/api-keys", "adminListApiKeys", "The API keys of everybody, or of one user",
     AUTH_ADMIN, GROUP_NONE, ROUTE_UNARY, PHASE_ANY, BODY_NONE, 0, admin_keys, NULL,
     "{\"query\": {\"user\": \"string: only this user's\", \"limit\": \"integer: at most so many, 1 to 500\","
     " \"continue\": \"string: cursor of the previous page\"},"
     " \"responses\": {\"200\": \"ApiKeyList\", \"400\": \"Error\"}}"},
    /* ---- governance ---- */
    {"GET", "/api/v1/governance/policies", "listPolicies", "The policies of the cluster and of namespaces",
     AUTH_USER, GROUP_NONE, ROUTE_INLINE, PHASE_ANY, BODY_NONE, 0, policies_list, NULL,
     "{\"responses\": {\"200\": \"PolicyList\"}}"},
    {"PUT", "/api/v1/governance/policies", "replaceClusterPolicy", "Replace the policy of the whole cluster",
     AUTH_ADMIN, GROUP_NONE, ROUTE_UNARY, PHASE_ANY, BODY_JSON, KIB(256), policies_put, NULL,
     "{\"request\": \"Policy\", \"responses\": {\"200\": \"ClusterPolicy\", \"400\": \"Error\", \"409\": "
     "\"Error\"}}",
     "policy.replace"},
    {"GET", "/api/v1/governance/policies/{namespace}", "getPolicy", "The policy stored for a namespace",
     AUTH_USER, GROUP_NONE, ROUTE_INLINE, PHASE_ANY, BODY_NONE, 0, policy_get, NULL,
     "{\"responses\": {\"200\": \"NamespacePolicy\"}}"},
    {"PUT", "/api/v1/governance/policies/{namespace}", "replacePolicy", "Replace the policy of a namespace",
     AUTH_ADMIN, GROUP_NONE, ROUTE_UNARY, PHASE_ANY, BODY_JSON, KIB(256), policy_put, NULL,
     "{\"request\": \"Policy\", \"responses\": {\"200\": \"NamespacePolicy\", \"400\": \"Error\", \"409\": "
     "\"Error\"}}",
     "policy.replace"},
    {"DELETE", "/api/v1/governance/policies/{namespace}", "deletePolicy", "Delete the policy of a namespace",
     AUTH_ADMIN, GROUP_NONE, ROUTE_UNARY, PHASE_ANY, BODY_NONE, 0, policy_delete, NULL,
     "{\"responses\": {\"204\": null, \"409\": \"Error\"}}", "policy.delete"},
    {"GET", "/api/v1/governance/effective", "getEffectivePolicy", "What holds in a namespace", AUTH_USER,
     GROUP_NONE, ROUTE_INLINE, PHASE_ANY, BODY_NONE, 0, policy_effective, NULL,
     "{\"query\": {\"namespace\": \"string: default: the namespace of new sandboxes\"}, \"responses\": "
     "{\"200\": \"EffectivePolicy\", \"503\": \"Error\"}}"},

    {"GET", "/api/v1/warmpool/status", "getWarmPool", "The warm pool: what is configured, how far it is",
     AUTH_USER, GROUP_NONE, ROUTE_UNARY, PHASE_ANY, BODY_NONE, 0, warmpool_status, NULL,
     "{\"responses\": {\"200\": \"WarmPool\"}}"},
    {"PUT", "/api/v1/warmpool/config", "configureWarmPool",
     "Say how many sandboxes of which templates are kept ready", AUTH_ADMIN, GROUP_NONE, ROUTE_UNARY,
     PHASE_ANY, BODY_JSON, KIB(64), warmpool_configure, NULL,
     "{\"request\": \"WarmPoolConfig\", \"responses\": {\"200\": \"WarmPoolConfigured\", \"400\": "
     "\"Error\", \"501\": \"Error\"}}",
     "warmpool.configure"},

    {"GET", "/api/v1/audit/events", "listAuditEvents",
     "What was done and what happened to sandboxes, newest first", AUTH_ADMIN, GROUP_NONE, ROUTE_UNARY,
     PHASE_ANY, BODY_NONE, 0, audit_events, NULL,
     "{\"query\": {\"actor\": \"string: subject of the caller\", \"sandbox\": \"string: name of the "
     "sandbox\","
     " \"namespace\": \"string: only this namespace\", \"type\": \"string: the action, or the reason of an "
     "event\","
     " \"kind\": \"string: action or event\", \"outcome\": \"string: success, denied, not_found, refused, "
     "failed or aborted\","
     " \"requestId\": \"string: X-Request-ID\", \"since\": \"string: RFC 3339, included\", \"until\": "
     "\"string: RFC 3339\","
     " \"scope\": \"string: local = of this replica only\","
     " \"limit\": \"integer: at most so many, 1 to 5000, default 1000\", \"continue\": \"string: cursor of "
     "the previous"
     " page\"}, \"responses\": {\"200\": \"AuditEventList\", \"400\": \"Error\"}}"},

    /* ---- the caller ---- */
    {"GET", "/api/v1/user/me", "getMe", "Who the caller is", AUTH_USER, GROUP_NONE, ROUTE_INLINE, PHASE_ANY,
     BODY_NONE, 0, user_me, NULL, "{\"responses\": {\"200\": \"Me\"}}"},
    {"GET", "/api/v1/user/preferences", "getPreferences", "What a user interface keeps for the caller",
     AUTH_USER, GROUP_NONE, ROUTE_INLINE, PHASE_ANY, BODY_NONE, 0, preferences_get, NULL,
     "{\"responses\": {\"200\": \"Any\"}}"},
    {"PUT", "/api/v1/user/preferences", "putPreferences", "Replace it, at most 256 KiB", AUTH_USER,
     GROUP_NONE, ROUTE_UNARY, PHASE_ANY, BODY_JSON_OR_NULL, MIB(1), preferences_put, NULL,
     "{\"headers\": {\"If-Match\": \"string: the ETag that must still be current\"}, \"request\": \"Any\","
     " \"responses\": {\"200\": \"Any\", \"400\": \"Error\", \"412\": \"Error\", \"413\": \"Error\"}}",
     "preferences.update"},
    {"PATCH", "/api/v1/user/preferences", "patchPreferences", "Change members of it: JSON merge patch",
     AUTH_USER, GROUP_NONE, ROUTE_UNARY, PHASE_ANY, BODY_JSON, MIB(1), preferences_patch, NULL,
     "{\"headers\": {\"If-Match\": \"string: the ETag that must still be current\"}, \"request\": \"Any\","
     " \"responses\": {\"200\": \"Any\", \"400\": \"Error\", \"412\": \"Error\", \"413\": \"Error\"}}",
     "preferences.update"},
    {"GET", "/api/v1/user/api-keys", "listApiKeys", "The caller's API keys", AUTH_USER, GROUP_NONE,
     ROUTE_INLINE, PHASE_ANY, BODY_NONE, 0, keys_list, NULL, "{\"responses\": {\"200\": \"ApiKeyList\"}}"},
    {"POST", "/api/v1/user/api-keys", "createApiKey",
     "Make an API key, for all one may do or for one sandbox", AUTH_USER, GROUP_NONE, ROUTE_UNARY, PHASE_ANY,
     BODY_JSON_OPTIONAL, KIB(64), keys_create, NULL,
     "{\"request\": \"ApiKeyCreate\", \"responses\": {\"201\": \"ApiKeyCreated\", \"400\": \"Error\", "
     "\"404\": \"Error\"}}",
     "key.create"},
    {"DELETE", "/api/v1/user/api-keys/{keyId}", "deleteApiKey", "Revoke an API key, at once", AUTH_USER,
     GROUP_NONE, ROUTE_UNARY, PHASE_ANY, BODY_NONE, 0, keys_delete, NULL,
     "{\"responses\": {\"200\": \"Revoked\", \"403\": \"Error\", \"404\": \"Error\"}}", "key.delete"},
};
const size_t route_count = sizeof routes / sizeof routes[0];
