/* What answers to a TokenReview say of the token's holder (lessons S9, I34). */
#include "k8s/token_review.h"

#include "common/json.h"

#include <check.h>

#define STATUS(text) "{\"kind\":\"TokenReview\",\"status\":{" text "}}"
#define ANA          "\"user\":{\"username\":\"system:serviceaccount:a:ana\",\"uid\":\"7\",\"groups\":[\"x\",5,\"y\"]}"

static const char *const named[] = {"other", "agenttier", NULL};
static const char *const own[] = {NULL};

static bool authenticated(const char *text, const char *const *audiences) {
    cleanup_json json_t *answer = json_loads(text, 0, NULL);
    struct token_review review;
    token_review_read(answer, audiences, &review);
    bool is = review.authenticated;
    ck_assert(is == (review.username != NULL));
    token_review_free(&review);
    return is;
}

START_TEST(S9_an_audience_of_ours_must_come_back) {
    ck_assert(authenticated(STATUS("\"authenticated\":true," ANA ",\"audiences\":[\"agenttier\"]"), named));
    ck_assert(!authenticated(STATUS("\"authenticated\":true," ANA ",\"audiences\":[\"vault\"]"), named));
    ck_assert(!authenticated(STATUS("\"authenticated\":true," ANA ",\"audiences\":[]"), named));
    ck_assert(!authenticated(STATUS("\"authenticated\":true," ANA), named));
    ck_assert(!authenticated(STATUS("\"authenticated\":true," ANA ",\"audiences\":\"agenttier\""), named));
}
END_TEST

START_TEST(the_audience_of_the_api_server_has_any_name) {
    ck_assert(authenticated(STATUS("\"authenticated\":true," ANA ",\"audiences\":[\"https://k\"]"), own));
    ck_assert(authenticated(STATUS("\"authenticated\":true," ANA), own));
    ck_assert(!authenticated(STATUS("\"authenticated\":false," ANA), own));
}
END_TEST

START_TEST(S9_nobody_comes_of_a_broken_answer) {
    static const char *const texts[] = {"null",
                                        "[]",
                                        "5",
                                        "{}",
                                        STATUS(""),
                                        STATUS("\"authenticated\":true"),
                                        STATUS("\"authenticated\":1," ANA),
                                        STATUS("\"authenticated\":\"true\"," ANA),
                                        STATUS("\"authenticated\":true,\"user\":{\"username\":\"\"}"),
                                        STATUS("\"authenticated\":true,\"user\":{\"username\":5}"),
                                        STATUS("\"authenticated\":true,\"user\":[]"),
                                        STATUS("\"authenticated\":true,\"error\":\"x\"")};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        cleanup_json json_t *answer = json_loads(texts[i], JSON_DECODE_ANY, NULL);
        struct token_review review;
        token_review_read(answer, own, &review);
        ck_assert_msg(!review.authenticated && !review.username, "%s", texts[i]);
        token_review_free(&review);
    }
}
END_TEST

START_TEST(the_holder_is_read_whole) {
    cleanup_json json_t *answer = json_loads(STATUS("\"authenticated\":true," ANA), 0, NULL);
    struct token_review review;
    token_review_read(answer, own, &review);
    ck_assert_str_eq(review.username, "system:serviceaccount:a:ana");
    ck_assert_str_eq(review.uid, "7");
    ck_assert_uint_eq(json_array_size(review.groups), 2); /* what is no text is no group */
    token_review_free(&review);
}
END_TEST

int main(void) {
    Suite *s = suite_create("token_review");
    TCase *t = tcase_create("token_review");
    tcase_add_test(t, S9_an_audience_of_ours_must_come_back);
    tcase_add_test(t, the_audience_of_the_api_server_has_any_name);
    tcase_add_test(t, S9_nobody_comes_of_a_broken_answer);
    tcase_add_test(t, the_holder_is_read_whole);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
