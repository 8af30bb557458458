/* The description of a command, as the runtime takes it from the Router (stream) and from clients of the
 * reference's calls: what is accepted can be given to execve() as it is. The first byte chooses the form. */
#include "runtime/exec_request.h"
#include "runtime/paths.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    struct slice text = {(const char *)data + 1, size - 1};
    struct error err = {0};
    cleanup_exec_request struct exec_request r = {0};
    bool stream = data[0] % 3 == 0;
    bool ok = stream ? exec_request_parse_stream(text, &r, &err)
                     : exec_request_parse_reference(text, data[0] % 3 == 1, &r, &err);
    if (!ok) {
        MUST(err.status >= 400 && err.status < 600 && err.code && err.message[0]);
        error_clear(&err);
        return 0;
    }
    MUST(r.timeout_ms >= 0 && r.timeout_ms <= EXEC_TIMEOUT_MAX && r.output_limit <= EXEC_OUTPUT_MAX);
    MUST(strlen(r.key.id) <= EXEC_ID_MAX && strlen(r.key.digest) <= EXEC_DIGEST_MAX);
    if (stream)
        MUST(r.key.id[0] &&
             strspn(r.key.id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-") ==
                 strlen(r.key.id));
    MUST(r.attach || (r.argv && r.argv[0]));
    for (char **e = r.env; e && *e; e++)
        MUST(strchr(*e, '='));
    MUST(!r.stdin_text || r.wants_stdin);
    return 0;
}
