/* Template resolution and merging: one test for each row of controller.md 6.1 to 6.3. */
#include "backend/templates.h"
#include "common/bytes.h"
#include "common/json.h"

#include <check.h>
#include <stdio.h>

/* A store that has what is in a list of JSON texts; only get is used. */
struct fake {
    struct store store;
    struct object *objects[16];
    size_t count;
};

static struct object *fake_get(struct store *store, enum kind kind, const char *namespace, const char *name) {
    struct fake *f = (struct fake *)store;
    for (size_t i = 0; i < f->count; i++) {
        struct object *o = f->objects[i];
        if (o->kind == kind && strcmp(o->namespace, namespace) == 0 && strcmp(o->name, name) == 0) {
            return object_ref(o);
        }
    }
    return NULL;
}

static const struct store_ops fake_ops = {.get = fake_get};

static json_t *parse(const char *text) {
    struct error err = {0};
    json_t *value = json_parse(slice_of(text), &err);
    ck_assert_msg(value != NULL, "%s: %s", err.message, text);
    return value;
}

/* namespace "" makes a cluster template. */
static void add(struct fake *f, const char *namespace, const char *name, const char *spec) {
    cleanup_free char *text = xasprintf("{\"metadata\":{\"name\":\"%s\",\"namespace\":\"%s\",\"uid\":\"u\","
                                        "\"resourceVersion\":\"%zu\"},\"spec\":%s}",
                                        name, namespace, f->count + 10, spec);
    f->store.ops = &fake_ops;
    enum kind kind = namespace[0] ? KIND_SANDBOX_TEMPLATE : KIND_CLUSTER_SANDBOX_TEMPLATE;
    f->objects[f->count] = object_new(kind, parse(text), 1);
    f->count++;
}

static void fake_free(struct fake *f) {
    for (size_t i = 0; i < f->count; i++)
        object_unref(f->objects[i]);
}
#define cleanup_fake __attribute__((cleanup(fake_free)))

static json_t *resolve(struct fake *f, const char *spec, struct error *err) {
    f->store.ops = &fake_ops;
    cleanup_free char *text =
        xasprintf("{\"metadata\":{\"name\":\"s\",\"namespace\":\"default\"},\"spec\":%s}", spec);
    cleanup_json json_t *sandbox = parse(text);
    return template_resolve(&f->store, sandbox, err);
}

#define CLUSTER(name) "{\"kind\":\"ClusterSandboxTemplate\",\"name\":\"" name "\"}"
#define REF           "{\"templateRef\":" CLUSTER("t") "}"
#define REF_AND(rest) "{\"templateRef\":" CLUSTER("t") "," rest "}"

static void expect(const json_t *result, const char *member, const char *expected) {
    cleanup_json json_t *want = expected ? parse(expected) : NULL;
    const json_t *got = json_object_get(result, member);
    cleanup_free char *text = got ? json_dumps(got, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    ck_assert_msg(want == got || (want && got && json_equal(want, got)), "%s: got %s, expected %s", member,
                  text ? text : "nothing", expected ? expected : "nothing");
}

static void expect_merged(const char *parent, const char *child, const char *member, const char *expected) {
    cleanup_fake struct fake f = {0};
    cleanup_free char *spec =
        xasprintf("{\"inheritsFrom\":" CLUSTER("p") "%s%s}", child[0] ? "," : "", child);
    cleanup_free char *root = xasprintf("{%s}", parent);
    add(&f, "", "p", root);
    add(&f, "", "t", spec);
    struct error err = {0};
    cleanup_json json_t *result = resolve(&f, REF, &err);
    ck_assert_msg(result != NULL, "%s", err.message);
    expect(result, member, expected);
}

static void expect_laid(const char *template, const char *sandbox, const char *member, const char *expected) {
    cleanup_fake struct fake f = {0};
    cleanup_free char *spec = xasprintf("{%s}", template);
    cleanup_free char *own =
        xasprintf("{\"templateRef\":" CLUSTER("t") "%s%s}", sandbox[0] ? "," : "", sandbox);
    add(&f, "", "t", spec);
    struct error err = {0};
    cleanup_json json_t *result = resolve(&f, own, &err);
    ck_assert_msg(result != NULL, "%s", err.message);
    expect(result, member, expected);
}

static void expect_error(struct fake *f, const char *spec, int status, const char *code, const char *part) {
    cleanup_error struct error err = {0};
    ck_assert_ptr_null(resolve(f, spec, &err));
    ck_assert_int_eq(err.status, status);
    ck_assert_str_eq(err.code, code);
    ck_assert_msg(strncmp(err.message, "Template resolution failed: ", 28) == 0, "%s", err.message);
    ck_assert_msg(strstr(err.message, part) != NULL, "%s", err.message);
}

START_TEST(no_template) {
    cleanup_fake struct fake f = {0};
    cleanup_json json_t *r = resolve(&f, "{\"image\":{\"repository\":\"a\"},\"env\":null}", NULL);
    expect(r, "templateName", "\"\"");
    expect(r, "templateResourceVersion", "\"\"");
    expect(r, "image", "{\"repository\":\"a\"}");
    expect(r, "storage", "{\"mountPath\":\"/workspace\"}");
    expect(r, "env", NULL);
}
END_TEST

START_TEST(names_the_direct_template) {
    cleanup_fake struct fake f = {0};
    add(&f, "", "p", "{\"description\":\"root\"}");
    add(&f, "", "t", "{\"inheritsFrom\":" CLUSTER("p") "}");
    cleanup_json json_t *r = resolve(&f, REF, NULL);
    expect(r, "templateName", "\"t\"");
    expect(r, "templateResourceVersion", "\"11\"");
    expect(r, "inheritsFrom", NULL);
    expect(r, "description", NULL);
}
END_TEST

START_TEST(namespaces_of_references) {
    cleanup_fake struct fake f = {0};
    add(&f, "default", "own", "{\"image\":{\"repository\":\"own\"}}");
    add(&f, "other", "own", "{\"image\":{\"repository\":\"other\"}}");
    /* A parent without a namespace is looked for in the sandbox's, not in the child's. */
    add(&f, "other", "child", "{\"inheritsFrom\":{\"name\":\"own\"}}");
    struct {
        const char *ref, *image;
    } cases[] = {{"{\"name\":\"own\"}", "{\"repository\":\"own\"}"},
                 {"{\"name\":\"own\",\"kind\":\"\",\"namespace\":\"\"}", "{\"repository\":\"own\"}"},
                 {"{\"name\":\"own\",\"namespace\":\"other\"}", "{\"repository\":\"other\"}"},
                 {"{\"name\":\"child\",\"namespace\":\"other\"}", "{\"repository\":\"own\"}"}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        cleanup_free char *spec = xasprintf("{\"templateRef\":%s}", cases[i].ref);
        cleanup_json json_t *r = resolve(&f, spec, NULL);
        ck_assert_ptr_nonnull(r);
        expect(r, "image", cases[i].image);
    }
}
END_TEST

START_TEST(missing_templates) {
    cleanup_fake struct fake f = {0};
    add(&f, "", "t", "{\"inheritsFrom\":" CLUSTER("gone") "}");
    expect_error(&f, REF, 404, "template_not_found", "\"gone\"");
    expect_error(&f, "{\"templateRef\":{\"name\":\"x\"}}", 404, "template_not_found",
                 "\"x\" not found in namespace \"default\"");
    expect_error(&f, "{\"templateRef\":{\"name\":\"t\"}}", 404, "template_not_found",
                 "there is a ClusterSandboxTemplate of that name");
    expect_error(&f, "{\"templateRef\":{\"name\":\"t\",\"kind\":\"Pod\"}}", 404, "template_not_found",
                 "\"Pod\"");
}
END_TEST

START_TEST(circles) {
    cleanup_fake struct fake f = {0};
    add(&f, "", "t", "{\"inheritsFrom\":" CLUSTER("u") "}");
    add(&f, "", "u", "{\"inheritsFrom\":" CLUSTER("t") "}");
    expect_error(&f, REF, 400, "template_circular", "circular");
    add(&f, "", "self", "{\"inheritsFrom\":" CLUSTER("self") "}");
    expect_error(&f, "{\"templateRef\":" CLUSTER("self") "}", 400, "template_circular", "\"self\"");
}
END_TEST

START_TEST(depth) {
    cleanup_fake struct fake f = {0};
    for (int i = 0; i < 11; i++) {
        char name[16], spec[128] = "{\"runtimeClass\":\"root\"}";
        snprintf(name, sizeof(name), "l%d", i);
        if (i > 0) {
            snprintf(spec, sizeof(spec),
                     "{\"inheritsFrom\":{\"kind\":\"ClusterSandboxTemplate\",\"name\":\"l%d\"}}", i - 1);
        }
        add(&f, "", name, spec);
    }
    cleanup_json json_t *r = resolve(&f, "{\"templateRef\":" CLUSTER("l9") "}", NULL); /* 10 levels */
    ck_assert_ptr_nonnull(r);
    expect(r, "runtimeClass", "\"root\"");
    expect_error(&f, "{\"templateRef\":" CLUSTER("l10") "}", 400, "template_too_deep", "10 levels");
}
END_TEST

START_TEST(whole_objects_of_the_child) {
    static const char *const names[] = {"image", "resources", "storage", "network", "security"};
    for (size_t i = 0; i < 5; i++) {
        cleanup_free char *p = xasprintf("\"%s\":{\"mountPath\":\"/m\",\"a\":1}", names[i]);
        cleanup_free char *c = xasprintf("\"%s\":{\"mountPath\":\"/m\",\"b\":2}", names[i]);
        cleanup_free char *null = xasprintf("\"%s\":null", names[i]);
        expect_merged(p, c, names[i], "{\"mountPath\":\"/m\",\"b\":2}");
        expect_merged(p, "", names[i], "{\"mountPath\":\"/m\",\"a\":1}");
        expect_merged(p, null, names[i], "{\"mountPath\":\"/m\",\"a\":1}");
    }
    static const char *const texts[] = {"timeout", "idleTimeout", "runtimeClass"};
    for (size_t i = 0; i < 3; i++) {
        cleanup_free char *p = xasprintf("\"%s\":\"1h\"", texts[i]);
        cleanup_free char *c = xasprintf("\"%s\":\"2h\"", texts[i]);
        cleanup_free char *empty = xasprintf("\"%s\":\"\"", texts[i]);
        expect_merged(p, c, texts[i], "\"2h\"");
        expect_merged(p, "", texts[i], "\"1h\"");
        expect_merged(p, empty, texts[i], "\"1h\"");
    }
}
END_TEST

START_TEST(service_account_is_the_roots) {
    expect_merged("\"serviceAccount\":\"p\"", "\"serviceAccount\":\"c\"", "serviceAccount", "\"p\"");
    expect_merged("", "\"serviceAccount\":\"c\"", "serviceAccount", NULL);
    expect_laid("\"serviceAccount\":\"t\"", "", "serviceAccount", "\"t\"");
}
END_TEST

#define ITEM(key, k, v) "{\"" key "\":\"" k "\",\"v\":" v "}"

START_TEST(unions) {
    expect_merged("\"env\":[" ITEM("name", "A", "1") "," ITEM("name", "B", "1") "]",
                  "\"env\":[" ITEM("name", "C", "2") "," ITEM("name", "A", "2") "]", "env",
                  "[" ITEM("name", "A", "2") "," ITEM("name", "B", "1") "," ITEM("name", "C", "2") "]");
    expect_merged("\"files\":[" ITEM("path", "/a", "1") "]",
                  "\"files\":[" ITEM("path", "/b", "2") "," ITEM("path", "/a", "2") "]", "files",
                  "[" ITEM("path", "/a", "2") "," ITEM("path", "/b", "2") "]");
    expect_merged("", "\"env\":[" ITEM("name", "A", "1") "," ITEM("name", "A", "2") "]", "env",
                  "[" ITEM("name", "A", "2") "]");
}
END_TEST

START_TEST(concatenations) {
    static const char *const names[] = {"sidecars", "initContainers", "credentials"};
    for (size_t i = 0; i < 3; i++) {
        cleanup_free char *p = xasprintf("\"%s\":[{\"name\":\"x\"}]", names[i]);
        expect_merged(p, p, names[i], "[{\"name\":\"x\"},{\"name\":\"x\"}]");
        expect_laid(p, p, names[i], "[{\"name\":\"x\"},{\"name\":\"x\"}]");
        expect_laid(p, "", names[i], "[{\"name\":\"x\"}]");
        expect_laid("", p, names[i], "[{\"name\":\"x\"}]");
    }
    expect_merged("\"initScripts\":[\"a\"]", "\"initScripts\":[\"a\",\"b\"]", "initScripts",
                  "[\"a\",\"a\",\"b\"]");
}
END_TEST

START_TEST(harness) {
    expect_merged("\"harness\":{\"shell\":\"/bin/sh\"}", "", "harness", "{\"shell\":\"/bin/sh\"}");
    expect_merged("", "\"harness\":{\"shell\":\"/bin/sh\"}", "harness", "{\"shell\":\"/bin/sh\"}");
    expect_merged(
        "\"harness\":{\"command\":[\"a\"],\"args\":[\"b\"],\"workingDir\":\"/p\",\"shell\":\"/p\","
        "\"systemPrompt\":{\"content\":\"p\"},\"hooks\":{\"onStart\":\"p\"},"
        "\"constraints\":{\"x\":1},\"useHTTPExec\":true,\"tools\":[{\"name\":\"p\"}],"
        "\"skills\":[{\"name\":\"p\"}]}",
        "\"harness\":{\"command\":[],\"args\":[\"c\"],\"workingDir\":\"\",\"shell\":\"/c\","
        "\"hooks\":{\"onStop\":\"c\"},\"useHTTPExec\":false,\"tools\":[{\"name\":\"c\"}],"
        "\"skills\":[{\"name\":\"c\"}]}",
        "harness",
        "{\"command\":[\"a\"],\"args\":[\"c\"],\"workingDir\":\"/p\",\"shell\":\"/c\","
        "\"systemPrompt\":{\"content\":\"p\"},\"hooks\":{\"onStop\":\"c\"},"
        "\"constraints\":{\"x\":1},\"useHTTPExec\":false,\"tools\":[{\"name\":\"p\"},{\"name\":\"c\"}],"
        "\"skills\":[{\"name\":\"p\"},{\"name\":\"c\"}]}");
    expect_merged("\"harness\":{\"useHTTPExec\":true}", "\"harness\":{}", "harness",
                  "{\"useHTTPExec\":true}");
}
END_TEST

START_TEST(agent) {
    expect_merged(
        "\"harness\":{\"agent\":{\"entrypoint\":[\"p\"],\"installCommand\":[\"p\"],"
        "\"workingDir\":\"/p\",\"maxConcurrentInvokes\":3,\"defaultInvokeTimeout\":\"1m\","
        "\"env\":[" ITEM("name", "A", "1") "]}}",
        "\"harness\":{\"agent\":{\"entrypoint\":[\"c\"],\"installCommand\":[],\"workingDir\":\"/c\","
        "\"maxConcurrentInvokes\":0,\"env\":[" ITEM("name", "B", "2") "," ITEM("name", "A", "2") "]}}",
        "harness",
        "{\"agent\":{\"entrypoint\":[\"c\"],\"installCommand\":[\"p\"],\"workingDir\":\"/c\","
        "\"maxConcurrentInvokes\":0,\"defaultInvokeTimeout\":\"1m\",\"env\":[" ITEM(
            "name", "A", "2") "," ITEM("name", "B", "2") "]}}");
}
END_TEST

START_TEST(sandbox_over_template) {
    static const char *const names[] = {"image", "resources", "network", "security"};
    for (size_t i = 0; i < 4; i++) {
        cleanup_free char *t = xasprintf("\"%s\":{\"a\":1}", names[i]);
        cleanup_free char *s = xasprintf("\"%s\":{\"b\":2}", names[i]);
        expect_laid(t, s, names[i], "{\"b\":2}");
        expect_laid(t, "", names[i], "{\"a\":1}");
        expect_laid("", "", names[i], NULL);
    }
    static const char *const texts[] = {"runtimeClass", "serviceAccount", "timeout", "idleTimeout"};
    for (size_t i = 0; i < 4; i++) {
        cleanup_free char *t = xasprintf("\"%s\":\"1h\"", texts[i]);
        cleanup_free char *s = xasprintf("\"%s\":\"0s\"", texts[i]);
        expect_laid(t, s, texts[i], "\"0s\"");
        expect_laid(t, "", texts[i], "\"1h\""); /* W5 repaired */
        expect_laid("", "", texts[i], NULL);
    }
    expect_laid("\"env\":[" ITEM("name", "A", "1") "]",
                "\"env\":[" ITEM("name", "B", "2") "," ITEM("name", "A", "2") "]", "env",
                "[" ITEM("name", "A", "2") "," ITEM("name", "B", "2") "]");
}
END_TEST

START_TEST(template_only_and_sandbox_only) {
    expect_laid("\"harness\":{\"shell\":\"/t\",\"command\":[\"x\"]}", "\"harness\":{\"shell\":\"/s\"}",
                "harness", "{\"shell\":\"/t\",\"command\":[\"x\"]}");
    expect_laid("\"files\":[{\"path\":\"/t\"}]", "\"files\":[{\"path\":\"/s\"}]", "files",
                "[{\"path\":\"/t\"}]");
    expect_laid("\"initScripts\":[\"t\"]", "\"initScripts\":[\"s\"]", "initScripts", "[\"t\"]");
    expect_laid("\"mode\":\"agent\"", "\"mode\":\"code\"", "mode", "\"code\"");
    expect_laid("\"mode\":\"agent\"", "", "mode", NULL);
}
END_TEST

START_TEST(storage_and_mount_path) {
    expect_laid("\"storage\":{\"size\":\"1Gi\",\"mountPath\":\"/t\"}", "", "storage",
                "{\"size\":\"1Gi\",\"mountPath\":\"/t\"}");
    expect_laid("\"storage\":{\"size\":\"1Gi\",\"mountPath\":\"/t\"}", "\"storage\":{\"size\":\"2Gi\"}",
                "storage", "{\"size\":\"2Gi\",\"mountPath\":\"/t\"}");
    expect_laid("\"storage\":{\"mountPath\":\"/t\"}", "\"storage\":{\"mountPath\":\"/s\"}", "storage",
                "{\"mountPath\":\"/s\"}");
    expect_laid("", "\"storage\":{\"size\":\"2Gi\",\"mountPath\":\"\"}", "storage",
                "{\"size\":\"2Gi\",\"mountPath\":\"/workspace\"}");
}
END_TEST

START_TEST(wrong_types_count_as_absent) {
    expect_laid("\"env\":[" ITEM("name", "A", "1") "]", "\"env\":\"x\"", "env",
                "[" ITEM("name", "A", "1") "]");
    expect_laid("\"image\":{\"repository\":\"t\"}", "\"image\":\"x\"", "image", "{\"repository\":\"t\"}");
    expect_laid("\"timeout\":\"1h\"", "\"timeout\":5", "timeout", "\"1h\"");
    expect_laid("\"env\":[1,{\"x\":1}]", "\"env\":[1]", "env", "[1,{\"x\":1},1]");
}
END_TEST

START_TEST(builtin) {
    bool general = false;
    for (const char *const *text = builtin_templates(); *text; text++) {
        cleanup_json json_t *t = parse(*text);
        ck_assert_str_eq(json_str_at(t, "kind"), "ClusterSandboxTemplate");
        const json_t *labels = json_at(t, "metadata.labels");
        ck_assert_str_eq(json_string_value(json_object_get(labels, "agenttier.io/managed")), "true");
        ck_assert_str_eq(json_str_at(t, "spec.image.repository"), "host");
        ck_assert_str_eq(json_str_at(t, "spec.timeout"), "24h");
        ck_assert(json_is_true(json_at(t, "spec.harness.useHTTPExec")));
        ck_assert_str_ne(json_str_at(t, "spec.description"), "");
        if (strcmp(json_str_at(t, "metadata.name"), "general-coding") != 0) continue;
        general = true;
        ck_assert_str_eq(json_str_at(t, "spec.resources.requests.cpu"), "500m");
        ck_assert_str_eq(json_str_at(t, "spec.resources.limits.memory"), "4Gi");
        ck_assert_str_eq(json_str_at(t, "spec.storage.size"), "10Gi");
        ck_assert_str_eq(json_str_at(t, "spec.idleTimeout"), "4h");
        ck_assert_str_eq(json_str_at(t, "spec.harness.shell"), "/bin/bash");
    }
    ck_assert(general);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("templates");
    TCase *resolution = tcase_create("resolution (6.1)");
    tcase_add_test(resolution, no_template);
    tcase_add_test(resolution, names_the_direct_template);
    tcase_add_test(resolution, namespaces_of_references);
    tcase_add_test(resolution, missing_templates);
    tcase_add_test(resolution, circles);
    tcase_add_test(resolution, depth);
    suite_add_tcase(suite, resolution);
    TCase *templates = tcase_create("template over template (6.2)");
    tcase_add_test(templates, whole_objects_of_the_child);
    tcase_add_test(templates, service_account_is_the_roots);
    tcase_add_test(templates, unions);
    tcase_add_test(templates, concatenations);
    tcase_add_test(templates, harness);
    tcase_add_test(templates, agent);
    suite_add_tcase(suite, templates);
    TCase *sandbox = tcase_create("sandbox over template (6.3)");
    tcase_add_test(sandbox, sandbox_over_template);
    tcase_add_test(sandbox, template_only_and_sandbox_only);
    tcase_add_test(sandbox, storage_and_mount_path);
    tcase_add_test(sandbox, wrong_types_count_as_absent);
    tcase_add_test(sandbox, builtin);
    suite_add_tcase(suite, sandbox);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failures = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failures == 0 ? 0 : 1;
}
