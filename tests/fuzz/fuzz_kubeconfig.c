/* A kubeconfig of anybody's: what is accepted has a server and credentials that belong together; what is
 * refused has an error that can be shown. */
#include "common/text.h"
#include "k8s/kubeconfig.h"
#include "k8s/yaml_json.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct slice text = slice_make((const char *)data, size);
    cleanup_error struct error err = {0};
    json_t *value = yaml_parse(text, &err);
    MUST(value || (err.status == 400 && err.message[0] && utf8_valid(slice_of(err.message))));
    json_decref(value);
    cleanup_error struct error refused = {0};
    cleanup_kubeconfig struct kubeconfig k;
    if (!kubeconfig_parse(text, NULL, &k, &refused)) {
        MUST(refused.status == 400 && refused.message[0] && utf8_valid(slice_of(refused.message)));
        MUST(!k.server && !k.exec);
        return 0;
    }
    MUST(k.server && k.server[0]);
    MUST(((k.certificate || k.certificate_file) != 0) == ((k.key || k.key_file) != 0));
    MUST(!(k.insecure && (k.ca || k.ca_file)));
    MUST(!k.exec || json_is_string(json_object_get(k.exec, "command")));
    return 0;
}
