/* From a client's request to a Sandbox: http-api.md 2.4, 2.5, 4.2; tutorial.md rows 3, 10. */
#include "router/exec_args.h"
#include "router/sandbox_spec.h"
#include "tests/unit/router/fixture.h"

/* The spec that a body gives; every body is the minimum plus `more`. */
static json_t *spec_of(const char *more) {
    cleanup_free char *text = xasprintf("{'name':'a','template':'t'%s%s}", more[0] ? "," : "", more);
    cleanup_json json_t *body = json_of(text);
    cleanup_sandbox_request struct sandbox_request q;
    cleanup_error struct error err = {0};
    ck_assert_msg(sandbox_request_parse(body, &q, &err), "%s: %s", text, err.message);
    return json_incref(q.spec);
}

static void assert_spec(const char *more, const char *want) {
    cleanup_json json_t *spec = spec_of(more);
    assert_json(spec, want);
}

static void assert_refused(const char *text, const char *field) {
    cleanup_json json_t *body = json_of(text);
    cleanup_sandbox_request struct sandbox_request q;
    cleanup_error struct error err = {0};
    ck_assert_msg(!sandbox_request_parse(body, &q, &err), "taken: %s", text);
    assert_field_error(&err, field);
}

static void assert_member_refused(const char *more, const char *field) {
    cleanup_free char *text = xasprintf("{'name':'a','template':'t',%s}", more);
    assert_refused(text, field);
}

START_TEST(names) {
    assert_refused("{}", "name");
    assert_refused("{'name':''}", "name");
    assert_refused("{'name':null,'template':'t'}", "name");
    assert_refused("{'name':7,'template':'t'}", "name");
    static const char *const bad[] = {"A", "-a", "a-", "a.b", "a_b", "a b", "\u00e9", "a/b", "../x"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cleanup_free char *text = xasprintf("{'name':'%s','template':'t'}", bad[i]);
        assert_refused(text, "name");
        cleanup_free char *in = xasprintf("{'name':'a','template':'t','namespace':'%s'}", bad[i]);
        assert_refused(in, "namespace");
    }
    char label[65];
    memset(label, 'a', 64);
    label[64] = '\0';
    cleanup_free char *longer = xasprintf("{'name':'%s','template':'t'}", label);
    assert_refused(longer, "name");
    assert_refused("{'name':'a','template':'t','namespace':{}}", "namespace");
}
END_TEST

START_TEST(template_reference) {
    assert_refused("{'name':'a'}", "templateRef.name");
    assert_refused("{'name':'a','templateRef':{}}", "templateRef.name");
    assert_refused("{'name':'a','templateRef':{'name':''}}", "templateRef.name");
    assert_refused("{'name':'a','templateRef':'t'}", "templateRef");
    assert_refused("{'name':'a','template':{'name':'t'}}", "template");
    assert_refused("{'name':'a','template':'t','templateRef':{'name':'u'}}", "template");
    assert_refused("{'name':'a','templateRef':{'name':'t','kind':'Pod'}}", "templateRef.kind");
    assert_refused("{'name':'a','templateRef':{'name':'t','namespace':'No!'}}", "templateRef.namespace");
    cleanup_json json_t *body =
        json_of("{'name':'a','namespace':'team','template':'t','templateRef':{'name':'t',"
                "'kind':'SandboxTemplate','namespace':'lib'},'unknown':1}");
    cleanup_sandbox_request struct sandbox_request q;
    ck_assert(sandbox_request_parse(body, &q, NULL));
    ck_assert_str_eq(q.name, "a");
    ck_assert_str_eq(q.namespace, "team");
    ck_assert_str_eq(q.template_name, "t");
    ck_assert_str_eq(q.template_kind, "SandboxTemplate");
    ck_assert_str_eq(q.template_namespace, "lib");
    assert_json(q.spec, "{}");
}
END_TEST

START_TEST(durations) {
    assert_spec("'timeout':'8h','idleTimeout':'90m'", "{'timeout':'8h0m0s','idleTimeout':'1h30m0s'}");
    assert_spec("'timeout':'1500ms'", "{'timeout':'1.5s'}");
    assert_spec("'timeout':null,'idleTimeout':''", "{}");
    static const char *const bad[] = {"'later'", "'0'", "'-5m'", "'1d'", "'1 h'", "30", "{}", "true"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cleanup_free char *timeout = xasprintf("'timeout':%s", bad[i]);
        assert_member_refused(timeout, "timeout");
        cleanup_free char *idle = xasprintf("'overrides':{'idleTimeout':%s}", bad[i]);
        assert_member_refused(idle, "overrides.idleTimeout");
    }
}
END_TEST

START_TEST(resources) {
    const char *flat = "'resources':{'cpu':'999','memory':'1024Mi'}";
    assert_spec(flat, "{'resources':{'limits':{'cpu':'999','memory':'1Gi'}}}");
    assert_spec("'overrides':{'resources':{'cpu':1.5,'memory':1000}}",
                "{'resources':{'limits':{'cpu':'1500m','memory':'1k'}}}");
    assert_spec("'overrides':{'resources':{'limits':{'cpu':2},'requests':{'cpu':'500m'},'memory':null}}",
                "{'resources':{'limits':{'cpu':'2'},'requests':{'cpu':'500m'}}}");
    assert_spec("'resources':{'cpu':'1'},'overrides':{'resources':{'memory':'1Gi'}}",
                "{'resources':{'limits':{'memory':'1Gi'}}}");
    assert_spec("'resources':{'limits':{'nvidia.com/gpu':1},'claims':[{'name':'c'}]}",
                "{'resources':{'limits':{'nvidia.com/gpu':'1'},'claims':[{'name':'c'}]}}");
    assert_member_refused("'resources':'2'", "resources");
    assert_member_refused("'resources':{'cpu':'two'}", "resources.cpu");
    assert_member_refused("'resources':{'cpu':true}", "resources.cpu");
    assert_member_refused("'resources':{'cpu':'-1'}", "resources.cpu");
    assert_member_refused("'resources':{'cpu':0}", "resources.cpu");
    assert_member_refused("'resources':{'disk':'1Gi'}", "resources.disk");
    assert_member_refused("'resources':{'cpu':'1','limits':{'cpu':'2'}}", "resources.cpu");
    assert_member_refused("'overrides':{'resources':{'limits':{'memory':[]}}}",
                          "overrides.resources.limits.memory");
    assert_member_refused("'resources':{'limits':'2'}", "resources.limits");
    assert_member_refused("'resources':{'cpu':'1','requests':{'cpu':'2'}}", "resources.requests.cpu");
    assert_member_refused("'resources':{'claims':['c']}", "resources.claims");
}
END_TEST

START_TEST(environment) {
    assert_spec("'env':{'A':'1','B_2':''}", "{'env':[{'name':'A','value':'1'},{'name':'B_2','value':''}]}");
    assert_spec("'overrides':{'env':[{'name':'A','value':'1'},{'name':'A','value':'2'},{'name':'B'}]}",
                "{'env':[{'name':'A','value':'2'},{'name':'B','value':''}]}");
    assert_spec("'env':{'A':null}", "{'env':[]}");
    assert_member_refused("'env':'A=1'", "env");
    assert_member_refused("'env':{'A':1}", "env.A");
    assert_member_refused("'env':{'1A':'x'}", "env");
    assert_member_refused("'env':{'A=B':'x'}", "env");
    assert_member_refused("'env':{'':'x'}", "env");
    assert_member_refused("'env':['A']", "env");
    assert_member_refused("'env':[{'value':'x'}]", "env");
    assert_member_refused("'env':[{'name':'A','valueFrom':{}}]", "env.valueFrom");
    assert_member_refused("'overrides':{'env':[{'name':'A','value':{}}]}", "overrides.env.A");
}
END_TEST

START_TEST(storage_and_image) {
    assert_spec("'storage':{'size':'20Gi'}", "{'storage':{'size':'20Gi'}}");
    assert_spec("'overrides':{'storage':'1024Mi'}", "{'storage':{'size':'1Gi'}}");
    assert_spec(
        "'storage':{'size':'0','shared':false,'snapshotOnStop':true,'storageClass':'fast','mountPath':'/w'}",
        "{'storage':{'shared':false,'snapshotOnStop':true,'storageClass':'fast','mountPath':'/w'}}");
    assert_member_refused("'storage':{'size':'big'}", "storage.size");
    assert_member_refused("'storage':{'sise':'1Gi'}", "storage.sise");
    assert_member_refused("'storage':{'shared':'yes'}", "storage.shared");
    static const char *const paths[] = {"w", "/a/../b", "/..", "/./a", "/a:b", "/a\\n"};
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        cleanup_free char *more = xasprintf("'storage':{'mountPath':'%s'}", paths[i]);
        assert_member_refused(more, "storage.mountPath");
    }
    assert_member_refused("'storage':['1Gi']", "storage");
    assert_spec("'image':'reg.example/a:1'", "{'image':{'repository':'reg.example/a:1'}}");
    assert_spec("'overrides':{'image':{'repository':'a','pullPolicy':'Never','pullSecret':'s'}}",
                "{'image':{'repository':'a','pullPolicy':'Never','pullSecret':'s'}}");
    assert_member_refused("'image':{'tag':'1'}", "image.tag");
    assert_member_refused("'image':{}", "image.repository");
    assert_member_refused("'image':'a b'", "image");
    assert_member_refused("'image':7", "image");
    assert_member_refused("'overrides':{'image':{'repository':'a','pullPolicy':'Sometimes'}}",
                          "overrides.image.pullPolicy");
}
END_TEST

START_TEST(other_overrides) {
    assert_spec("'overrides':{'mode':'agent','autoResume':true,'network':{'allowInternet':false}}",
                "{'mode':'agent','autoResume':true,'network':{'allowInternet':false}}");
    assert_spec("'mode':'agent','overrides':null", "{}");
    assert_member_refused("'overrides':[]", "overrides");
    assert_member_refused("'overrides':{'cpu':'1'}", "overrides.cpu");
    assert_member_refused("'overrides':{'createdBy':{'sub':'root'}}", "overrides.createdBy");
    assert_member_refused("'overrides':{'security':{'privileged':true}}", "overrides.security");
    assert_member_refused("'overrides':{'serviceAccount':'admin'}", "overrides.serviceAccount");
    assert_member_refused("'overrides':{'network':{'allowInternet':true}}", "overrides.network");
    assert_member_refused("'overrides':{'mode':'root'}", "overrides.mode");
    assert_member_refused("'overrides':{'autoResume':'yes'}", "overrides.autoResume");
}
END_TEST

START_TEST(the_resource) {
    cleanup_json json_t *body =
        json_of("{'name':'demo-1','templateRef':{'name':'g','namespace':'lib'},'timeout':'8h'}");
    cleanup_sandbox_request struct sandbox_request q;
    ck_assert(sandbox_request_parse(body, &q, NULL));
    char sub[] = "a7", email[] = "ana@x.org", name[] = "Ana P", none[] = "";
    struct identity owner = {.sub = sub, .email = email, .name = name};
    cleanup_json json_t *object = sandbox_request_object(&q, "default", "ClusterSandboxTemplate", "", &owner);
    assert_json(object, "{'apiVersion':'agenttier.io/v1alpha1','kind':'Sandbox',"
                        "'metadata':{'name':'demo-1','namespace':'default'},"
                        "'spec':{'mode':'code','templateRef':{'name':'g','kind':'ClusterSandboxTemplate'},"
                        "'timeout':'8h0m0s',"
                        "'createdBy':{'sub':'a7','email':'ana@x.org','displayName':'Ana P'}}}");
    owner.email = owner.name = none;
    cleanup_json json_t *other = sandbox_request_object(&q, "team", "SandboxTemplate", "agent", &owner);
    assert_json(json_at(other, "spec.templateRef"),
                "{'name':'g','kind':'SandboxTemplate','namespace':'lib'}");
    assert_json(json_at(other, "spec.createdBy"), "{'sub':'a7'}");
    ck_assert_str_eq(json_str_at(other, "spec.mode"), "agent");
}
END_TEST

static void assert_inherited(const char *own, const char *template_spec, const char *want) {
    cleanup_json json_t *spec = json_of(own);
    cleanup_json json_t *base = json_of(template_spec);
    cleanup_json json_t *before = json_deep_copy(base);
    sandbox_spec_inherit(spec, base);
    assert_json(spec, want);
    ck_assert(json_equal(base, before));
}

START_TEST(inheriting_what_is_not_set) {
    const char *base =
        "{'resources':{'limits':{'cpu':'2','memory':'4Gi'},'requests':{'cpu':'500m','memory':'1Gi'}},"
        "'storage':{'size':'10Gi','mountPath':'/workspace'}}";
    assert_inherited("{'env':[]}", base, "{'env':[]}");
    assert_inherited("{'resources':{'limits':{'cpu':'250m'}}}", base,
                     "{'resources':{'limits':{'cpu':'250m','memory':'4Gi'},"
                     "'requests':{'cpu':'250m','memory':'1Gi'}}}");
    assert_inherited(
        "{'resources':{'requests':{'cpu':'3'}}}", base,
        "{'resources':{'limits':{'cpu':'3','memory':'4Gi'},'requests':{'cpu':'3','memory':'1Gi'}}}");
    assert_inherited("{'storage':{'snapshotOnStop':true}}", base,
                     "{'storage':{'size':'10Gi','mountPath':'/workspace','snapshotOnStop':true}}");
    assert_inherited("{'storage':{'size':'1Gi'},'resources':{'limits':{'cpu':'1'}}}", "{}",
                     "{'storage':{'size':'1Gi'},'resources':{'limits':{'cpu':'1'}}}");
    assert_inherited("{'resources':{'limits':{'cpu':'1'}}}",
                     "{'resources':{'limits':{'memory':7},'requests':{'cpu':7}}}",
                     "{'resources':{'limits':{'cpu':'1','memory':7},'requests':{'cpu':7}}}");
}
END_TEST

START_TEST(namespaces) {
    struct identity user = {0}, admin = {.is_admin = true};
    ck_assert(sandbox_namespace_allowed(&user, "team", "agenttier", "default"));
    ck_assert(sandbox_namespace_allowed(&user, "default", "agenttier", "default"));
    ck_assert(!sandbox_namespace_allowed(&user, "kube-system", "agenttier", "default"));
    ck_assert(!sandbox_namespace_allowed(&user, "kube-x", "agenttier", "default"));
    ck_assert(!sandbox_namespace_allowed(&user, "agenttier", "agenttier", "default"));
    ck_assert(sandbox_namespace_allowed(&user, "agenttier", "agenttier", "agenttier"));
    ck_assert(sandbox_namespace_allowed(&admin, "kube-system", "agenttier", "default"));
}
END_TEST

START_TEST(W06_namespaces_of_groups) {
    cleanup_json json_t *groups = json_pack("[s, s]", "team-a", "");
    struct identity user = {.groups = groups}, loner = {0}, admin = {.is_admin = true};
    const char *grants = "a=team-a, a=ops,all=*,none=team,b=team-b";
    ck_assert(sandbox_namespace_granted(&user, "a", grants));
    ck_assert(sandbox_namespace_granted(&user, "all", grants));
    ck_assert(sandbox_namespace_granted(&loner, "all", grants));
    ck_assert(!sandbox_namespace_granted(&loner, "a", grants));
    static const char *const refused[] = {"b", "none", "default", "", "al", "a=team-a", "*"};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        ck_assert_msg(!sandbox_namespace_granted(&user, refused[i], grants), "%s", refused[i]);
        ck_assert(sandbox_namespace_granted(&admin, refused[i], grants));
        ck_assert(sandbox_namespace_granted(&loner, refused[i], ""));
    }
    static const char *const good[] = {"", "a=b", "a=*,b=c", " a=b , c=d e=f "};
    static const char *const bad[] = {"a", "=", "a=", "=b", "a=b,,c=d", ","};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        ck_assert_msg(sandbox_grants_valid(good[i]), "%s", good[i]);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_msg(!sandbox_grants_valid(bad[i]), "%s", bad[i]);
}
END_TEST

static void assert_patch(const char *text, const char *want, const char *want_applied) {
    cleanup_json json_t *body = json_of(text);
    cleanup_json json_t *applied = NULL;
    cleanup_error struct error err = {0};
    cleanup_json json_t *patch = sandbox_patch_parse(body, &applied, &err);
    ck_assert_msg(patch != NULL, "%s: %s", text, err.message);
    assert_json(patch, want);
    assert_json(applied, want_applied);
}

static void assert_patch_refused(const char *text, const char *field) {
    cleanup_json json_t *body = json_of(text);
    cleanup_json json_t *applied = NULL;
    cleanup_error struct error err = {0};
    cleanup_json json_t *patch = sandbox_patch_parse(body, &applied, &err);
    ck_assert_msg(patch == NULL, "taken: %s", text);
    if (field)
        assert_field_error(&err, field);
    else
        ck_assert_int_eq(err.status, 400);
}

START_TEST(patches) {
    assert_patch("{'idleTimeout':'90m','resources':{'limits':{'cpu':'4'}},'labels':{'team':'search'}}",
                 "{'metadata':{'labels':{'team':'search'}},"
                 "'spec':{'idleTimeout':'1h30m0s','resources':{'limits':{'cpu':'4'}}}}",
                 "{'idleTimeout':'immediately','labels':'immediately','resources':'on-restart'}");
    assert_patch("{'idleTimeout':null,'timeout':null,'resources':null,'annotations':{'x.org/a':null}}",
                 "{'metadata':{'annotations':{'x.org/a':null}},"
                 "'spec':{'idleTimeout':null,'timeout':null,'resources':null}}",
                 "{'idleTimeout':'immediately','timeout':'immediately','resources':'on-restart',"
                 "'annotations':'immediately'}");
    assert_patch("{'labels':{}}", "{'metadata':{'labels':{}},'spec':{}}", "{'labels':'immediately'}");
    assert_patch_refused("{}", NULL);
    assert_patch_refused("{'idleTimeout':''}", NULL);
    assert_patch_refused("{'labels':null}", NULL);
    assert_patch_refused("{'unknown':1}", NULL);
    assert_patch_refused("{'idleTimeout':'0'}", "idleTimeout");
    assert_patch_refused("{'idleTimeout':30}", "idleTimeout");
    assert_patch_refused("{'resources':[]}", "resources");
    assert_patch_refused("{'labels':[]}", "labels");
    assert_patch_refused("{'labels':{'a':1}}", "labels");
    assert_patch_refused("{'labels':{'a':'b c'}}", "labels");
    assert_patch_refused("{'labels':{'a b':'c'}}", "labels");
    assert_patch_refused("{'labels':{'/a':'c'}}", "labels");
    assert_patch_refused("{'labels':{'a/':'c'}}", "labels");
    assert_patch_refused("{'labels':{'a/b/c':'c'}}", "labels");
    assert_patch_refused("{'labels':{'agenttier.io/sandbox':'x'}}", "labels");
    assert_patch_refused("{'annotations':{'agenttier.io/action':'stop'}}", "annotations");
    assert_patch_refused("{'annotations':{'agenttier.io/action':null}}", "annotations");
    assert_patch_refused("{'annotations':{'x.agenttier.io/action':'stop'}}", "annotations");
    assert_patch("{'annotations':{'notagenttier.io/x':'any text at all'}}",
                 "{'metadata':{'annotations':{'notagenttier.io/x':'any text at all'}},'spec':{}}",
                 "{'annotations':'immediately'}");
}
END_TEST

START_TEST(idempotency_keys) {
    char key[300];
    memset(key, 'k', sizeof key);
    key[255] = '\0';
    ck_assert(idempotency_key_valid("a"));
    ck_assert(idempotency_key_valid("~!\"/%"));
    ck_assert(idempotency_key_valid(key));
    key[255] = 'k';
    key[256] = '\0';
    ck_assert(!idempotency_key_valid(key));
    ck_assert(!idempotency_key_valid(""));
    ck_assert(!idempotency_key_valid("a b"));
    ck_assert(!idempotency_key_valid("a\t"));
    ck_assert(!idempotency_key_valid("\x7f"));
    ck_assert(!idempotency_key_valid("\xc3\xa9"));
}
END_TEST

RUN_TESTS("sandbox_spec", names, template_reference, durations, resources, environment, storage_and_image,
          other_overrides, the_resource, inheriting_what_is_not_set, namespaces, W06_namespaces_of_groups,
          patches, idempotency_keys)
