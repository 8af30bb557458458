/* Whom to believe about forwarded requests, and token buckets: http-api.md 1.11; lessons S20, S21. */
#include "router/forwarded.h"
#include "router/ratelimit.h"
#include "tests/unit/router/fixture.h"

static const char *client(const char *trusted, const char *peer, const char *forwarded, const char *real) {
    static char out[64];
    struct config config = {.trusted_proxies = trusted};
    forwarded_client_ip(&config, peer, forwarded, real, out);
    return out;
}

START_TEST(W42_hops_are_counted_from_the_right) {
    static const struct {
        const char *peer, *forwarded, *real, *want;
    } rows[] = {
        {"203.0.113.9", "1.1.1.1", "2.2.2.2", "203.0.113.9"}, /* a stranger */
        {"10.0.0.1", NULL, NULL, "10.0.0.1"},
        {"10.0.0.1", "", "", "10.0.0.1"},
        {"10.0.0.1", NULL, "2.2.2.2", "2.2.2.2"},
        {"10.0.0.1", "1.1.1.1", "2.2.2.2", "1.1.1.1"},
        {"10.0.0.1", "6.6.6.6, 1.1.1.1", NULL, "1.1.1.1"}, /* what the client made up is on the left */
        {"10.0.0.1", "6.6.6.6, 1.1.1.1 , 10.2.3.4", NULL, "1.1.1.1"},
        {"10.0.0.1", "10.9.9.9,10.2.3.4", NULL, "10.9.9.9"},
        {"10.0.0.1", "1.1.1.1:4711", NULL, "1.1.1.1"},
        {"10.0.0.1", "[2001:DB8::0:1]:443", NULL, "2001:db8::1"},
        {"10.0.0.1", "2001:db8:0::1", NULL, "2001:db8::1"},
        {"10.0.0.1", "::ffff:1.1.1.1", NULL, "1.1.1.1"},
        {"2001:db8:1::5", "1.1.1.1", NULL, "1.1.1.1"},
        {"2001:db8:2::5", "1.1.1.1", NULL, "2001:db8:2::5"},
        /* S21: nothing valid in it. */
        {"10.0.0.1", "unknown", NULL, "10.0.0.1"},
        {"10.0.0.1", ",", NULL, "10.0.0.1"},
        {"10.0.0.1", ", ,,", NULL, "10.0.0.1"},
        {"10.0.0.1", "1.1.1.1,", NULL, "10.0.0.1"},
        {"10.0.0.1", "1.1.1.1,evil, 10.2.3.4", NULL, "10.2.3.4"},
        {"10.0.0.1", "1.1.1.256", NULL, "10.0.0.1"},
        {"10.0.0.1", "[::1", NULL, "10.0.0.1"},
        {"10.0.0.1", "[]", NULL, "10.0.0.1"},
        {"10.0.0.1", ":80", NULL, "10.0.0.1"},
        {"10.0.0.1", "1.1.1.1 2.2.2.2", NULL, "10.0.0.1"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const char *got =
            client("10.0.0.0/8, 2001:db8:1::/48", rows[i].peer, rows[i].forwarded, rows[i].real);
        ck_assert_msg(strcmp(got, rows[i].want) == 0, "row %zu: %s", i, got);
    }
    ck_assert_str_eq(client("", "10.0.0.1", "1.1.1.1", NULL), "10.0.0.1");
    ck_assert_str_eq(client("10.0.0.1", "10.0.0.1", "1.1.1.1", NULL), "1.1.1.1");
    ck_assert_str_eq(client("10.0.0.1", "10.0.0.2", "1.1.1.1", NULL), "10.0.0.2");
    struct config legacy = {.trusted_proxies = "", .ratelimit_trust_forwarded = true};
    char out[64];
    forwarded_client_ip(&legacy, "192.168.1.1", "1.1.1.1", NULL, out);
    ck_assert_str_eq(out, "1.1.1.1");
    forwarded_client_ip(&legacy, "8.8.8.8", "1.1.1.1", NULL, out);
    ck_assert_str_eq(out, "8.8.8.8");
}
END_TEST

START_TEST(S20_networks) {
    static const char *const good[] = {
        "", "10.0.0.0/8", "10.0.0.1", "::1/128, 10.0.0.0/0", " 2001:db8::/32 ,", "::/0"};
    static const char *const bad[] = {"10.0.0.0/33", "x",           "10.0.0.0/",          "10.0.0/8",
                                      "::/129",      "10.0.0.0/-1", "10.0.0.0/8;1.1.1.1", "*"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        ck_assert_msg(forwarded_networks_valid(good[i]), "%s", good[i]);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        ck_assert_msg(!forwarded_networks_valid(bad[i]), "%s", bad[i]);
}
END_TEST

static int passes(bool (*ask)(struct rate_limiter *, const char *, struct rate_state *, struct error *),
                  struct rate_limiter *l, const char *who, int times) {
    int count = 0;
    for (int i = 0; i < times; i++)
        count += ask(l, who, NULL, NULL);
    return count;
}

START_TEST(buckets) {
    struct rate_limits limits = {.per_ip = 0.01, .per_user = 0.01, .expensive = 0.01, .failures = 0.01};
    struct rate_limiter *l = ratelimit_new(&limits);
    cleanup_error struct error err = {0};
    struct rate_state state;
    ck_assert(ratelimit_ip(l, "1.1.1.1", &state, &err));
    ck_assert_int_eq(state.limit, 30);
    ck_assert_int_eq(state.remaining, 29);
    ck_assert_int_ge(state.reset, 99);
    ck_assert_int_eq(passes(ratelimit_ip, l, "1.1.1.1", 40), 29);
    ck_assert_int_eq(passes(ratelimit_ip, l, "1.1.1.2", 40), 30);
    ck_assert(!ratelimit_ip(l, "1.1.1.1", &state, &err));
    ck_assert_int_eq(err.status, 429);
    ck_assert_int_ge(err.retry_after, 1);
    ck_assert_int_le(err.retry_after, 3600); /* W-43 */
    ck_assert_int_eq(state.remaining, 0);
    /* A network of IPv6 is one client. */
    ck_assert_int_eq(passes(ratelimit_ip, l, "2001:db8::1", 20), 20);
    ck_assert_int_eq(passes(ratelimit_ip, l, "2001:db8::2", 20), 10);
    ck_assert_int_eq(passes(ratelimit_ip, l, "2001:db8:0:1::2", 20), 20);
    ck_assert_int_eq(passes(ratelimit_expensive, l, "ana", 30), 20);
    /* W-43: what costs more than the bucket holds costs all of it, once. */
    ck_assert(ratelimit_user(l, "ana", 500, &state, NULL));
    ck_assert_int_eq(state.remaining, 0);
    ck_assert(!ratelimit_user(l, "ana", 500, NULL, NULL));
    ck_assert(ratelimit_user(l, "bo", 99, NULL, NULL) && ratelimit_user(l, "bo", 1, NULL, NULL));
    ck_assert(!ratelimit_user(l, "bo", 1, NULL, NULL));
    /* W-56: looking costs nothing. */
    for (int i = 0; i < 300; i++)
        ck_assert(ratelimit_may_fail(l, "1.1.1.1", LOGIN_LOOKED, NULL));
    for (int i = 0; i < 100; i++)
        ck_assert(ratelimit_failure(l, "1.1.1.1", LOGIN_LOOKED, NULL));
    ck_assert(!ratelimit_may_fail(l, "1.1.1.1", LOGIN_LOOKED, NULL));
    ck_assert(!ratelimit_failure(l, "1.1.1.1", LOGIN_LOOKED, NULL));
    ck_assert(ratelimit_may_fail(l, "1.1.1.1", LOGIN_ASKED, NULL));
    ratelimit_free(l);
    struct rate_limits none = {0};
    l = ratelimit_new(&none);
    ck_assert_int_eq(passes(ratelimit_ip, l, "1.1.1.1", 500), 500);
    ck_assert(ratelimit_ip(l, "1.1.1.1", &state, NULL) && state.limit == 0);
    ck_assert(ratelimit_ip(NULL, "1.1.1.1", NULL, NULL) && ratelimit_failure(NULL, "x", LOGIN_ASKED, NULL));
    ratelimit_free(l);
}
END_TEST

RUN_TESTS("limits", W42_hops_are_counted_from_the_right, S20_networks, buckets)
