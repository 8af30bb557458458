/* What a hostile or broken apiserver, or what stands between, may say on the way of pods/exec: the answer to
 * the upgrade, then messages on channels and their status. The first byte chooses. (lessons S2, S23) */
#include "k8s/exec_channels.h"
#include "k8s/upgrade.h"
#include "tests/fuzz/fuzz.h"

#define KEY "dGhlIHNhbXBsZSBub25jZQ=="

static void try_upgrade(struct slice in) {
    static const char *const protocols[] = {"v5.channel.k8s.io", "v4.channel.k8s.io", NULL};
    struct http1_head head;
    cleanup_error struct error err = {0}, refused = {0};
    ssize_t len = http1_parse_response(in, "GET", &head, NULL);
    if (len <= 0) return;
    int chosen = upgrade_check(&head, KEY, protocols, &err);
    MUST(chosen >= -1 && chosen <= 1);
    MUST(chosen >= 0 ? head.status == 101 && head.upgrade : err.status == 502 && err.message[0]);
    struct slice body = {in.ptr + len, in.len - (size_t)len};
    upgrade_refusal(head.status, body, "p", &refused);
    MUST(refused.status >= 400 && refused.status <= 599 && refused.code && refused.message[0]);
    for (const char *c = refused.message; *c; c++)
        MUST((unsigned char)*c >= 0x20);
    upgrade_refuses_protocol(head.status, body);
}

/* Two bytes of length (the top bit: the message ends here), then that many bytes. */
static void try_channels(struct slice in, bool v5) {
    struct exec_channels c;
    exec_channels_init(&c, v5);
    bool ok = true;
    while (ok && in.len >= 2) {
        size_t n = (size_t)((unsigned char)in.ptr[0] & 0x7f) << 8 | (unsigned char)in.ptr[1];
        bool last = in.ptr[0] & 0x80;
        in = slice_make(in.ptr + 2, in.len - 2);
        if (n > in.len) n = in.len;
        cleanup_error struct error err = {0};
        int channel;
        struct slice out;
        ok = exec_channels_take(&c, slice_make(in.ptr, n), last, &channel, &out, &err);
        MUST(ok ? channel == -1 || channel == 1 || channel == 2 : err.status == 502);
        MUST(!ok || channel != -1 || out.len == 0);
        MUST(out.len <= n);
        in = slice_make(in.ptr + n, in.len - n);
    }
    cleanup_error struct error err = {0};
    int code = exec_channels_outcome(&c, &err);
    MUST(code >= 0 ? code <= 255 && c.status.len > 0 : err.status == 502 && err.code && err.message[0]);
    exec_channels_free(&c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    struct slice in = {(const char *)data + 1, size - 1};
    if (data[0] & 1)
        try_upgrade(in);
    else
        try_channels(in, data[0] & 2);
    return 0;
}
