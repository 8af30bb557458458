/* Answers of an apiserver: a list in pieces (the first byte says how large) hands out the same items as in
 * one, and each begins as an object; a refusal becomes an error with a status that a client may see. */
#include "common/json.h"
#include "common/text.h"
#include "k8s/list_reader.h"
#include "k8s/snapshots.h"
#include "k8s/status.h"
#include "k8s/token_review.h"
#include "k8s/trim.h"
#include "tests/fuzz/fuzz.h"

static bool on_item(void *ctx, struct slice text) {
    MUST(text.len >= 2 && text.ptr[0] == '{'); /* that it ends as it began is for the parser */
    buffer_append(ctx, text.ptr, text.len);
    buffer_append_char(ctx, '\n');
    return true;
}

static bool read_list(struct slice text, size_t step, struct buffer *items, json_t **head) {
    struct list_reader r;
    cleanup_error struct error err = {0};
    list_reader_init(&r, on_item, items);
    bool ok = true;
    for (size_t i = 0; i < text.len && ok; i += step)
        ok = list_reader_feed(&r, slice_make(text.ptr + i, text.len - i < step ? text.len - i : step), &err);
    *head = ok ? list_reader_end(&r, &err) : NULL;
    list_reader_free(&r);
    MUST(*head || (err.status == 502 && err.message[0]));
    return *head != NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    struct slice text = slice_make((const char *)data + 1, size - 1);
    cleanup_buffer struct buffer whole = {0}, pieces = {0};
    cleanup_json json_t *a = NULL, *b = NULL;
    bool ok = read_list(text, text.len ? text.len : 1, &whole, &a);
    MUST(read_list(text, data[0] % 16 + 1, &pieces, &b) == ok);
    MUST(!ok || (json_equal(a, b) && slice_equal(buffer_slice(&whole), buffer_slice(&pieces))));

    json_error_t why;
    cleanup_json json_t *body = json_loadb(text.ptr, text.len, JSON_ALLOW_NUL | JSON_DECODE_ANY, &why);
    cleanup_error struct error err = {0};
    k8s_status_error(300 + data[0] * 2 % 300, body, "create x", 0, &err);
    MUST(err.status >= 400 && err.status < 600 && err.code && err.message[0] &&
         utf8_valid(slice_of(err.message)));
    MUST(err.status != 503 || err.retry_after > 0);
    static const char *const audiences[] = {"agenttier", NULL};
    struct token_review review;
    token_review_read(body, audiences, &review);
    MUST(review.authenticated == (review.username != NULL));
    token_review_free(&review);
    cleanup_error struct error unusable = {0};
    MUST(snapshot_class_usable(body, data[0] % 2 ? "fast" : NULL, &unusable) == (unusable.status == 0));
    MUST(unusable.status == 0 || (unusable.code && unusable.message[0]));
    snapshot_group_present(body);
    snapshot_resource_present(body, "volumesnapshots");
    trim_pod(body);
    trim_event(body);
    return 0;
}
