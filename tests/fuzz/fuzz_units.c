/* Durations, timestamps, quantities and the text encodings: what is accepted is printed in its
 * canonical form, which is read back as the same value and printed the same. */
#include "common/bytes.h"
#include "common/text.h"
#include "common/units.h"
#include "tests/fuzz/fuzz.h"

static void check_duration(const char *text) {
    int64_t ns, again;
    char canonical[DURATION_TEXT_MAX], twice[DURATION_TEXT_MAX];
    if (!duration_parse(text, &ns)) return;
    duration_format(ns, canonical);
    MUST(strlen(canonical) < DURATION_TEXT_MAX && duration_parse(canonical, &again) && again == ns);
    duration_format(again, twice);
    MUST(strcmp(canonical, twice) == 0);
}

static void check_time(const char *text) {
    time_t seconds, again;
    char canonical[RFC3339_MAX];
    if (!rfc3339_parse(text, &seconds)) return;
    rfc3339_format(seconds, canonical);
    /* An offset can lead out of the years that can be printed. */
    MUST(rfc3339_parse(canonical, &again));
    MUST(again == seconds || strncmp(canonical, "0000-", 5) == 0 || strncmp(canonical, "9999-", 5) == 0);
}

static void check_quantity(const char *text) {
    struct quantity q, again;
    char canonical[QUANTITY_TEXT_MAX], twice[QUANTITY_TEXT_MAX];
    if (!quantity_parse(text, &q)) return;
    quantity_format(q, canonical);
    MUST(strlen(canonical) < QUANTITY_TEXT_MAX - 1 && quantity_parse(canonical, &again));
    MUST(quantity_compare(q, again) == 0 && quantity_ceil(q) == quantity_ceil(again));
    quantity_format(again, twice);
    MUST(strcmp(canonical, twice) == 0);
    __int128 rest = (__int128)quantity_ceil(q) * 1000000000 - q.nano;
    MUST(rest >= 0 && rest < 1000000000);
}

static void check_encodings(struct slice in) {
    cleanup_buffer struct buffer a = {0}, b = {0}, c = {0}, d = {0};
    MUST(base64_encode(in, &a) && base64_decode(buffer_slice(&a), &b) && slice_equal(in, buffer_slice(&b)));
    buffer_clear(&a);
    buffer_clear(&b);
    if (base64_decode(in, &a)) MUST(base64_encode(buffer_slice(&a), &b) && slice_equal(in, buffer_slice(&b)));
    MUST(percent_encode(in, "/", &c));
    if (percent_decode(buffer_slice(&c), &d))
        MUST(slice_equal(in, buffer_slice(&d)));
    else
        MUST(memchr(in.ptr, '\0', in.len));
    buffer_clear(&c);
    buffer_clear(&d);
    percent_decode(in, &d);
    MUST(utf8_repair(in, &c) && utf8_valid(buffer_slice(&c)));
    MUST(!utf8_valid(in) || slice_equal(in, buffer_slice(&c)));
    size_t tail = utf8_incomplete_tail(in);
    MUST(tail <= 3 && tail <= in.len && (tail == 0 || !utf8_valid(in)));
    dns_label_valid(in);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct slice in = slice_make((const char *)data, size);
    cleanup_free char *text = slice_dup(in);
    check_duration(text);
    check_time(text);
    check_quantity(text);
    check_encodings(in);
    return 0;
}
