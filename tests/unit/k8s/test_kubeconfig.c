/* kubeconfigs, the YAML below them, and what credential plugins print. */
#include "common/json.h"
#include "k8s/config.h"
#include "k8s/exec_plugin.h"
#include "k8s/kubeconfig.h"
#include "k8s/yaml_json.h"
#include "tests/unit/common/suite.h"

#include <stdio.h>
#include <sys/stat.h>

#define HEAD                                                                                                 \
    "apiVersion: v1\nkind: Config\ncurrent-context: a\n"                                                     \
    "contexts:\n- {name: a, context: {cluster: c, user: u, namespace: ns1}}\n"                               \
    "- name: b\n  context:\n    cluster: d\n"

static void assert_json(const char *yaml, const char *json) {
    cleanup_error struct error err = {0};
    cleanup_json json_t *got = yaml_parse(slice_of(yaml), &err);
    cleanup_json json_t *wanted = json_loads(json, JSON_DECODE_ANY, NULL);
    ck_assert_msg(got != NULL, "%s: %s", yaml, err.message);
    cleanup_free char *text = json_dumps(got, JSON_ENCODE_ANY);
    ck_assert_msg(json_equal(got, wanted), "%s: %s", yaml, text);
}

START_TEST(yaml_values) {
    assert_json("", "null");
    assert_json("a: 1\nb: [x, 'y', \"z\"]\nc:\n  d: true\n  e:\n",
                "{\"a\":\"1\",\"b\":[\"x\",\"y\",\"z\"],\"c\":{\"d\":\"true\",\"e\":null}}");
    assert_json("{\"a\": {\"b\": [1, null]}}", "{\"a\":{\"b\":[\"1\",null]}}");
    assert_json("a: |\n  one\n  two\nb: >\n  folded\n  text\n",
                "{\"a\":\"one\\ntwo\\n\",\"b\":\"folded text\\n\"}");
    assert_json("a: ~\nb: null\nc: 'null'\nd: \"\"\n", "{\"a\":null,\"b\":null,\"c\":\"null\",\"d\":\"\"}");
    assert_json("a: &x {k: v}\nb: *x\nc: [*x, *x]\n",
                "{\"a\":{\"k\":\"v\"},\"b\":{\"k\":\"v\"},\"c\":[{\"k\":\"v\"},{\"k\":\"v\"}]}");
    assert_json("---\na: 1\n---\nb: 2\n", "{\"a\":\"1\"}");
}
END_TEST

START_TEST(yaml_refusals) {
    static const char *const texts[] = {"a: 1\na: 2\n", "a: [",         "? [x]\n: y\n", "{a: b}: c\n",
                                        "a: *nobody\n", "a: &x [*x]\n", "<<: {a: b}\n", "a: \"\\0\"\n",
                                        "\t- a",        "a: \xff\n"};
    for (size_t i = 0; i < COUNT(texts); i++) {
        cleanup_error struct error err = {0};
        cleanup_json json_t *got = yaml_parse(slice_of(texts[i]), &err);
        ck_assert_msg(!got && err.status == 400 && err.message[0], "%s", texts[i]);
    }
}
END_TEST

START_TEST(yaml_bombs_are_bounded) {
    /* Each level has ten times the one before: 10^9 values by ten aliases a level. */
    cleanup_buffer struct buffer bomb = {0};
    buffer_append_str(&bomb, "l0: &l0 [x,x,x,x,x,x,x,x,x,x]\n");
    for (int i = 1; i < 10; i++) {
        buffer_printf(&bomb, "l%d: &l%d [", i, i);
        for (int k = 0; k < 10; k++)
            buffer_printf(&bomb, "*l%d,", i - 1);
        buffer_append_str(&bomb, "]\n");
    }
    cleanup_json json_t *shared = yaml_parse(buffer_slice(&bomb), NULL);
    ck_assert_msg(shared != NULL, "values behind aliases are shared, not copied");

    cleanup_buffer struct buffer deep = {0}, wide = {0}, anchors = {0}, large = {0};
    for (int i = 0; i < 10000; i++)
        buffer_append_char(&deep, '[');
    for (int i = 0; i < YAML_MAX_NODES + 1; i++)
        buffer_append_str(&wide, "- x\n");
    for (int i = 0; i < YAML_MAX_ANCHORS + 1; i++)
        buffer_printf(&anchors, "- &a%d x\n", i);
    for (int i = 0; i < YAML_MAX_BYTES + 1; i++)
        buffer_append_char(&large, '#');
    struct buffer *const all[] = {&deep, &wide, &anchors, &large};
    for (size_t i = 0; i < COUNT(all); i++) {
        cleanup_error struct error err = {0};
        cleanup_json json_t *got = yaml_parse(buffer_slice(all[i]), &err);
        ck_assert_msg(!got && err.status == 400, "bomb %zu", i);
    }
}
END_TEST

START_TEST(contexts) {
    static const char text[] = HEAD
        "clusters:\n- {name: c, cluster: {server: 'https://c:6443', certificate-authority-data: 'Q\n  0E=',"
        " tls-server-name: inner}}\n"
        "- {name: d, cluster: {server: 'http://[::1]:80/x', insecure-skip-tls-verify: true}}\n"
        "users:\n- {name: u, user: {token: t0, tokenFile: tf, client-certificate: c.pem, client-key-data: "
        "S0VZ}}\n";
    cleanup_error struct error err = {0};
    cleanup_kubeconfig struct kubeconfig k;
    ck_assert_msg(kubeconfig_parse(slice_of(text), NULL, &k, &err), "%s", err.message);
    ck_assert_str_eq(k.server, "https://c:6443");
    ck_assert_str_eq(k.ca, "CA");
    ck_assert_str_eq(k.tls_server_name, "inner");
    ck_assert_str_eq(k.namespace, "ns1");
    ck_assert_str_eq(k.token, "t0");
    ck_assert_str_eq(k.token_file, "tf");
    ck_assert_str_eq(k.certificate_file, "c.pem");
    ck_assert_str_eq(k.key, "KEY");
    ck_assert(!k.insecure && !k.exec && !k.certificate && !k.key_file);
    kubeconfig_free(&k);
    ck_assert_msg(kubeconfig_parse(slice_of(text), "b", &k, &err), "%s", err.message);
    ck_assert_str_eq(k.server, "http://[::1]:80/x");
    ck_assert(k.insecure && !k.token && !k.namespace);
}
END_TEST

/* `cluster` and `user` are the members of flow mappings. */
static void assert_refused(const char *cluster, const char *user, const char *says) {
    cleanup_free char *text = xasprintf(
        HEAD "clusters: [{name: c, cluster: {%s}}]\nusers: [{name: u, user: {%s}}]\n", cluster, user);
    cleanup_error struct error err = {0};
    cleanup_kubeconfig struct kubeconfig k;
    ck_assert_msg(!kubeconfig_parse(slice_of(text), "", &k, &err), "taken: %s", text);
    ck_assert_int_eq(err.status, 400);
    ck_assert_msg(strstr(err.message, says) != NULL, "%s | %s", says, err.message);
}

START_TEST(refusals_name_what_is_wrong) {
    assert_refused("", "", "no server");
    assert_refused("server: 'https://x', proxy-url: 'http://p'", "", "proxy-url");
    assert_refused("server: [x]", "", "server must be text");
    assert_refused("server: 'https://x', certificate-authority-data: '%%'", "", "certificate-authority-data");
    assert_refused("server: 'https://x', insecure-skip-tls-verify: maybe", "", "insecure-skip-tls-verify");
    assert_refused("server: 'https://x', insecure-skip-tls-verify: true, certificate-authority: f", "",
                   "exclude");
    assert_refused("server: 'https://x'", "client-certificate: f", "client key");
    assert_refused("server: 'https://x'", "as: admin", "as is not supported");
    assert_refused("server: 'https://x'", "as-groups: [g]", "as-groups");
    assert_refused("server: 'https://x'", "auth-provider: {name: gcp}", "auth-provider");
    assert_refused("server: 'https://x'", "exec: {command: x}", "apiVersion");
    assert_refused("server: 'https://x'", "exec: {apiVersion: client.authentication.k8s.io/v1}",
                   "no command");
    assert_refused("server: 'https://x'",
                   "exec: {apiVersion: client.authentication.k8s.io/v1, command: x, interactiveMode: Always}",
                   "terminal");
    assert_refused("server: 'https://x'",
                   "exec: {apiVersion: client.authentication.k8s.io/v1, command: x, args: [[y]]}", "args");
    assert_refused(
        "server: 'https://x'",
        "exec: {apiVersion: client.authentication.k8s.io/v1, command: x, env: [{name: 'A=B', value: c}]}",
        "env");
    static const char *const whole[] = {"",
                                        "[]",
                                        "text",
                                        "current-context: x\n",
                                        "contexts: []\n",
                                        "current-context: a\ncontexts: [{name: a, context: {cluster: c}}]\n",
                                        "current-context: a\ncontexts: [{name: a, context: {user: c}}]\n"};
    for (size_t i = 0; i < COUNT(whole); i++) {
        cleanup_error struct error err = {0};
        cleanup_kubeconfig struct kubeconfig k;
        ck_assert_msg(!kubeconfig_parse(slice_of(whole[i]), NULL, &k, &err) && err.status == 400, "%s",
                      whole[i]);
    }
}
END_TEST

#define V1 "client.authentication.k8s.io/v1"

START_TEST(plugin_answers) {
    struct exec_credential c;
    cleanup_error struct error err = {0};
    ck_assert(exec_credential_parse(slice_of("{\"apiVersion\":\"" V1
                                             "\",\"kind\":\"ExecCredential\",\"status\":{\"token\":\"t\","
                                             "\"expirationTimestamp\":\"2030-01-01T00:00:00Z\"}}"),
                                    V1, &c, &err));
    ck_assert_str_eq(c.token, "t");
    ck_assert_int_eq(c.expires, 1893456000);
    exec_credential_free(&c);
    static const char *const bad[] = {
        "",
        "{}",
        "[]",
        "{\"kind\":\"ExecCredential\"}",
        "{\"apiVersion\":\"" V1 "beta1\",\"kind\":\"ExecCredential\",\"status\":{\"token\":\"t\"}}",
        "{\"apiVersion\":\"" V1 "\",\"kind\":\"ExecCredential\",\"status\":{}}",
        "{\"apiVersion\":\"" V1 "\",\"kind\":\"ExecCredential\",\"status\":{\"token\":5}}",
        "{\"apiVersion\":\"" V1
        "\",\"kind\":\"ExecCredential\",\"status\":{\"clientCertificateData\":\"c\"}}",
        "{\"apiVersion\":\"" V1
        "\",\"kind\":\"ExecCredential\",\"status\":{\"token\":\"t\",\"expirationTimestamp\":\"soon\"}}"};
    for (size_t i = 0; i < COUNT(bad); i++) {
        error_clear(&err);
        ck_assert_msg(!exec_credential_parse(slice_of(bad[i]), V1, &c, &err) && err.status == 400, "%s",
                      bad[i]);
    }
}
END_TEST

/* ---- with files ---- */

static char folder[] = "/tmp/kubeconfig-XXXXXX";

static void write_file(const char *name, const char *text, mode_t mode) {
    cleanup_free char *path = xasprintf("%s/%s", folder, name);
    FILE *f = fopen(path, "w");
    ck_assert(f && fputs(text, f) >= 0 && fclose(f) == 0 && chmod(path, mode) == 0);
}

static struct k8s_config *load(const char *user, struct error *err) {
    cleanup_free char *text = xasprintf(
        HEAD "clusters: [{name: c, cluster: {server: 'http://h:1/p/'}}]\nusers: [{name: u, user: {%s}}]\n",
        user);
    write_file("config", text, 0600);
    cleanup_free char *path = xasprintf("%s/config", folder);
    return k8s_config_load(path, NULL, err);
}

static void assert_authorization(struct k8s_config *config, const char *wanted) {
    cleanup_free char *got = k8s_config_authorization(config);
    ck_assert_str_eq(got ? got : "", wanted);
}

START_TEST(I33_a_token_file_is_read_again_and_the_last_good_one_kept) {
    ck_assert(mkdtemp(folder) != NULL);
    cleanup_error struct error err = {0};
    write_file("token", "one\n", 0600);
    struct k8s_config *config = load("tokenFile: token", &err);
    ck_assert_msg(config != NULL, "%s", err.message);
    ck_assert_str_eq(k8s_config_host(config), "h");
    ck_assert_str_eq(k8s_config_path_prefix(config), "/p");
    ck_assert_str_eq(k8s_config_server(config), "http://h:1/p");
    assert_authorization(config, "Bearer one");
    write_file("token", "two", 0600);
    ck_assert(k8s_config_refresh(config, false, &err));
    assert_authorization(config, "Bearer two");
    static const char *const bad[] = {"", " \n", "a\nb", "a b", "\x7f"};
    for (size_t i = 0; i < COUNT(bad); i++) {
        write_file("token", bad[i], 0600);
        error_clear(&err);
        ck_assert_msg(!k8s_config_refresh(config, false, &err) && err.message[0], "taken: %s", bad[i]);
        assert_authorization(config, "Bearer two");
    }
    k8s_config_free(config);
}
END_TEST

START_TEST(a_plugin_is_asked_again_when_its_answer_ends_or_is_refused) {
    ck_assert(mkdtemp(strcpy(folder, "/tmp/kubeconfig-XXXXXX")) != NULL);
    cleanup_error struct error err = {0};
    write_file("plugin",
               "#!/bin/sh\ncd \"$1\"; echo x >>count\nn=$(wc -l <count)\n"
               "case $KUBERNETES_EXEC_INFO in *'\"interactive\":false'*) ;; *) exit 3;; esac\n"
               "[ \"$GREETING\" = hello ] || exit 4\n"
               "echo '{\"apiVersion\":\"" V1 "\",\"kind\":\"ExecCredential\",\"status\":{\"token\":\"t'$n'\","
               "\"expirationTimestamp\":\"'$(cat until)'\"}}'\n",
               0700);
    write_file("until", "2099-01-01T00:00:00Z", 0600);
    cleanup_free char *user = xasprintf("exec: {apiVersion: " V1 ", command: ./plugin, args: ['%s'],"
                                        " env: [{name: GREETING, value: hello}]}",
                                        folder);
    struct k8s_config *config = load(user, &err);
    ck_assert_msg(config != NULL, "%s", err.message);
    assert_authorization(config, "Bearer t1");
    ck_assert(k8s_config_refresh(config, false, &err));
    assert_authorization(config, "Bearer t1"); /* it is good for long */
    ck_assert(k8s_config_refresh(config, true, &err));
    assert_authorization(config, "Bearer t2");
    write_file("until", "2001-01-01T00:00:00Z", 0600);
    ck_assert(k8s_config_refresh(config, true, &err));
    ck_assert(k8s_config_refresh(config, false, &err));
    assert_authorization(config, "Bearer t4"); /* its time was over */
    write_file("plugin", "#!/bin/sh\nexit 7\n", 0700);
    error_clear(&err);
    ck_assert(!k8s_config_refresh(config, true, &err));
    ck_assert_msg(strstr(err.message, "status 7") != NULL, "%s", err.message);
    assert_authorization(config, "Bearer t4");
    k8s_config_free(config);
    ck_assert(load("exec: {apiVersion: " V1 ", command: /nowhere/x, installHint: get it}", &err) == NULL);
    ck_assert_msg(strstr(err.message, "get it") != NULL, "%s", err.message);
}
END_TEST

START_TEST(basic_and_nothing) {
    ck_assert(mkdtemp(strcpy(folder, "/tmp/kubeconfig-XXXXXX")) != NULL);
    cleanup_error struct error err = {0};
    struct k8s_config *config = load("username: u, password: p", &err);
    assert_authorization(config, "Basic dTpw");
    k8s_config_free(config);
    config = load("", &err);
    assert_authorization(config, "");
    ck_assert(k8s_config_ssl_ctx(config) == NULL);
    k8s_config_free(config);
    ck_assert(load("client-certificate: missing, client-key: missing", &err) == NULL);
    ck_assert_msg(strstr(err.message, "missing") != NULL, "%s", err.message);
}
END_TEST

RUN_SUITE("kubeconfig", yaml_values, yaml_refusals, yaml_bombs_are_bounded, contexts,
          refusals_name_what_is_wrong, plugin_answers,
          I33_a_token_file_is_read_again_and_the_last_good_one_kept,
          a_plugin_is_asked_again_when_its_answer_ends_or_is_refused, basic_and_nothing)
