#include "k8s/token_review.h"

#include "common/bytes.h"
#include "common/json.h"

static bool names_one(const json_t *list, const char *const *audiences) {
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item) {
        for (size_t k = 0; audiences[k]; k++)
            if (json_is_string(item) && strcmp(json_string_value(item), audiences[k]) == 0) return true;
    }
    return false;
}

void token_review_read(const json_t *answer, const char *const *audiences, struct token_review *out) {
    *out = (struct token_review){0};
    const json_t *status = json_object_get(answer, "status");
    const char *username = json_str_at(status, "user.username");
    if (!json_is_true(json_object_get(status, "authenticated")) || !username[0]) return;
    /* An apiserver that does not know audiences leaves them out and answers for its own. */
    if (audiences[0] && !names_one(json_object_get(status, "audiences"), audiences)) return;
    out->authenticated = true;
    out->username = xstrdup(username);
    out->uid = xstrdup(json_str_at(status, "user.uid"));
    out->groups = json_array();
    size_t i;
    json_t *group;
    json_array_foreach(json_at(status, "user.groups"), i, group) {
        if (json_is_string(group)) json_array_append(out->groups, group);
    }
}

bool token_review(struct k8s_client *client, const char *token, const char *const *audiences,
                  struct token_review *out, struct error *err) {
    cleanup_json json_t *list = json_array();
    for (size_t i = 0; audiences[i]; i++)
        json_array_append_new(list, json_string(audiences[i]));
    cleanup_json json_t *body =
        json_pack("{s:s, s:s, s:{s:s, s:O*}}", "apiVersion", "authentication.k8s.io/v1", "kind",
                  "TokenReview", "spec", "token", token, "audiences", audiences[0] ? list : NULL);
    *out = (struct token_review){0};
    if (!body) return true; /* not UTF-8: nobody's token */
    cleanup_json json_t *answer = NULL;
    cleanup_error struct error failed = {0};
    if (k8s_call(client, "POST", "/apis/authentication.k8s.io/v1/tokenreviews", NULL, body, &answer,
                 &failed)) {
        token_review_read(answer, audiences, out);
        return true;
    }
    /* Whatever the reason, nothing is known of the token. */
    error_set(err, 503, ERR_UNAVAILABLE, "the token cannot be checked: %s", failed.message);
    if (err) err->retry_after = failed.retry_after ? failed.retry_after : 5;
    return false;
}
