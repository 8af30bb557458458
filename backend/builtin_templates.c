/* The templates of a new local installation (http-api-extended.md 12.5). The image "host" is
 * this machine's own file system, read-only; what a template adds is limits, times and
 * an environment that suits it. Each of them stands for itself: an administrator who edits
 * one changes no other. */
#include "backend/templates.h"

#define TEMPLATE(name, spec)                                                                                 \
    "{\"apiVersion\":\"agenttier.io/v1alpha1\",\"kind\":\"ClusterSandboxTemplate\","                         \
    "\"metadata\":{\"name\":\"" name "\",\"labels\":{\"agenttier.io/managed\":\"true\"}},\"spec\":{" spec    \
    "}}"

#define RESOURCES(cpu, memory, max_cpu, max_memory)                                                          \
    "\"resources\":{\"requests\":{\"cpu\":\"" cpu "\",\"memory\":\"" memory "\"},"                           \
    "\"limits\":{\"cpu\":\"" max_cpu "\",\"memory\":\"" max_memory "\"}}"

#define COMMON(storage, internet, shell)                                                                     \
    "\"mode\":\"code\",\"image\":{\"repository\":\"host\"},"                                                 \
    "\"storage\":{\"size\":\"" storage "\",\"mountPath\":\"/workspace\"},"                                   \
    "\"network\":{\"allowInternet\":" internet "},\"timeout\":\"24h\","                                      \
    "\"harness\":{\"shell\":\"" shell "\",\"workingDir\":\"/workspace\",\"useHTTPExec\":true},"

static const char *const texts[] = {
    TEMPLATE(
        "general-coding",
        "\"description\":\"General purpose: shell, Python, Node and Git as far as this machine has them\","
        "\"idleTimeout\":\"4h\"," COMMON("10Gi", "true", "/bin/bash") RESOURCES("500m", "1Gi", "2", "4Gi")),
    TEMPLATE("python", "\"description\":\"Python: unbuffered output, byte code kept out of the workspace\","
                       "\"idleTimeout\":\"4h\","
                       "\"env\":[{\"name\":\"PYTHONUNBUFFERED\",\"value\":\"1\"},"
                       "{\"name\":\"PYTHONPYCACHEPREFIX\",\"value\":\"/tmp/pycache\"},"
                       "{\"name\":\"PIP_DISABLE_PIP_VERSION_CHECK\",\"value\":\"1\"}]," COMMON(
                           "10Gi", "true", "/bin/bash") RESOURCES("500m", "1Gi", "2", "4Gi")),
    TEMPLATE("node", "\"description\":\"Node.js: global packages go to the workspace\","
                     "\"idleTimeout\":\"4h\","
                     "\"env\":[{\"name\":\"NPM_CONFIG_PREFIX\",\"value\":\"/workspace/.npm-global\"},"
                     "{\"name\":\"NPM_CONFIG_UPDATE_NOTIFIER\",\"value\":\"false\"},"
                     "{\"name\":\"NPM_CONFIG_FUND\",\"value\":\"false\"}]," COMMON(
                         "10Gi", "true", "/bin/bash") RESOURCES("500m", "1Gi", "2", "4Gi")),
    TEMPLATE("minimal-shell",
             "\"description\":\"A shell with little memory and no network\",\"idleTimeout\":\"1h\"," COMMON(
                 "1Gi", "false", "/bin/sh") RESOURCES("100m", "64Mi", "1", "512Mi")),
    NULL,
};

const char *const *builtin_templates(void) {
    return texts;
}
