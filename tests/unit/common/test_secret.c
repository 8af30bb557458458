/* Hashes against known vectors; shapes and freshness of what is random. */
#include "common/secret.h"

#include "tests/unit/common/suite.h"

#include <time.h>

START_TEST(test_sha256) {
    static const char *const rows[][2] = {
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    };
    char hex[SHA256_HEX_LEN + 1];
    for (size_t i = 0; i < COUNT(rows); i++) {
        sha256_hex(slice_of(rows[i][0]), hex);
        ck_assert_str_eq(hex, rows[i][1]);
    }
    sha256_hex(slice_make(NULL, 0), hex);
    ck_assert_str_eq(hex, rows[0][1]);
}
END_TEST

START_TEST(test_equal) {
    ck_assert(secret_equal(slice_of("abc"), slice_of("abc")));
    ck_assert(!secret_equal(slice_of("abc"), slice_of("abd")));
    ck_assert(!secret_equal(slice_of("abc"), slice_of("ab")));
    ck_assert(secret_equal(slice_of(""), slice_make(NULL, 0)));
    ck_assert(!secret_equal(slice_make("a\0b", 3), slice_make("a\0c", 3)));
}
END_TEST

/* Of this thread: what others do meanwhile is not counted. The best of all rounds is kept. */
static void measure(struct slice a, struct slice b, double *best) {
    struct timespec from, to;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
    for (int i = 0; i < 20; i++)
        ck_assert(!secret_equal(a, b));
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
    double took = (double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) / 1e9;
    if (took < *best) *best = took;
}

/* S8: how much of a secret is right cannot be told by time. A comparison that ends at the first
 * difference would take thousands of times longer for the second pair. */
START_TEST(test_S08_equal_takes_the_same_time) {
    static char secret[1 << 20], first[1 << 20], last[1 << 20];
    first[0] = 1;
    last[sizeof last - 1] = 1;
    double early = 1e9, late = 1e9;
    for (int round = 0; round < 20; round++) { /* in turns: the processor may become slower or faster */
        measure(slice_make(secret, sizeof secret), slice_make(first, sizeof first), &early);
        measure(slice_make(secret, sizeof secret), slice_make(last, sizeof last), &late);
    }
    ck_assert_msg(early > late / 3 && late > early / 3, "%g s and %g s", early, late);
}
END_TEST

START_TEST(test_api_keys) {
    char keys[200][API_KEY_LEN + 1];
    for (size_t i = 0; i < COUNT(keys); i++) {
        api_key_generate(keys[i]);
        ck_assert_uint_eq(strlen(keys[i]), API_KEY_LEN);
        ck_assert_int_eq(strncmp(keys[i], "atk_", 4), 0);
        ck_assert_uint_eq(
            strspn(keys[i] + 4, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"),
            API_KEY_LEN - 4);
        for (size_t k = 0; k < i; k++) {
            ck_assert_str_ne(keys[i], keys[k]);
        }
    }
}
END_TEST

START_TEST(test_uuids) {
    char before[UUID_LEN + 1] = "";
    for (int i = 0; i < 200; i++) {
        char uuid[UUID_LEN + 1];
        uuid_generate(uuid);
        ck_assert_uint_eq(strlen(uuid), UUID_LEN);
        for (size_t k = 0; k < UUID_LEN; k++) {
            bool dash = k == 8 || k == 13 || k == 18 || k == 23;
            ck_assert(dash ? uuid[k] == '-' : strchr("0123456789abcdef", uuid[k]) != NULL);
        }
        ck_assert_int_eq(uuid[14], '4');
        ck_assert_ptr_nonnull(strchr("89ab", uuid[19]));
        ck_assert_str_ne(uuid, before);
        memcpy(before, uuid, sizeof uuid);
    }
}
END_TEST

START_TEST(test_random) {
    char hex[2 * 100 + 1];
    for (size_t n = 0; n <= 100; n += 25) {
        random_hex(hex, n);
        ck_assert_uint_eq(strlen(hex), 2 * n);
        ck_assert_uint_eq(strspn(hex, "0123456789abcdef"), 2 * n);
    }
    unsigned char bytes[4096];
    unsigned seen[256] = {0};
    random_bytes(bytes, sizeof bytes);
    unsigned distinct = 0;
    for (size_t i = 0; i < sizeof bytes; i++) {
        if (seen[bytes[i]]++ == 0) distinct++;
    }
    ck_assert_uint_gt(distinct, 240); /* 256 expected; fewer than 241 never happens */
}
END_TEST

RUN_SUITE("secret", test_sha256, test_equal, test_S08_equal_takes_the_same_time, test_api_keys, test_uuids,
          test_random)
