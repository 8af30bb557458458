/* Port forwards: requests, Services and answers. http-api.md 2.10, 4.5; tutorial.md row 7. */
#include "router/ports.h"
#include "router/sandbox_view.h"
#include "tests/unit/router/fixture.h"

static struct object *sandbox_of(const char *name) {
    cleanup_free char *text =
        xasprintf("{'metadata':{'namespace':'default','name':'%s','uid':'u-1','resourceVersion':'1'}}", name);
    return object_new(KIND_SANDBOX, json_of(text), 1);
}

static void assert_refused(const char *text, const char *field) {
    cleanup_json json_t *body = json_of(text);
    struct port_request q;
    cleanup_error struct error err = {0};
    ck_assert_msg(!port_request_parse(body, &q, &err), "taken: %s", text);
    assert_field_error(&err, field);
}

START_TEST(requests) {
    cleanup_json json_t *body = json_of("{'port':65535,'name':'web-2','protocol':'https'}");
    struct port_request q;
    ck_assert(port_request_parse(body, &q, NULL));
    ck_assert_int_eq(q.port, 65535);
    ck_assert_str_eq(q.name, "web-2");
    ck_assert_str_eq(q.protocol, "https");
    cleanup_json json_t *bare = json_of("{'port':1,'name':'','protocol':null}");
    ck_assert(port_request_parse(bare, &q, NULL));
    ck_assert(!q.name && !q.protocol);
    static const char *const ports[] = {"{}",
                                        "{'port':null}",
                                        "{'port':0}",
                                        "{'port':-1}",
                                        "{'port':65536}",
                                        "{'port':'80'}",
                                        "{'port':80.5}",
                                        "{'port':[80]}"};
    for (size_t i = 0; i < sizeof ports / sizeof ports[0]; i++)
        assert_refused(ports[i], "port");
    static const char *const names[] = {"8000", "0", "Web", "a_b", "-a", "a.b", "a b"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        cleanup_free char *text = xasprintf("{'port':80,'name':'%s'}", names[i]);
        assert_refused(text, "name");
    }
    assert_refused("{'port':80,'name':8000}", "name");
    assert_refused("{'port':80,'protocol':'a b'}", "protocol");
    assert_refused("{'port':80,'protocol':'abcdefghijabcdefghijabcdefghijabc'}", "protocol");
}
END_TEST

START_TEST(targets) {
    static const struct {
        const char *text;
        bool ok;
        int port;
    } rows[] = {{"80", true, 80},    {"web", true, 0},       {"8a", true, 0},          {"65536", false, 0},
                {"70000", false, 0}, {"0", false, 0},        {"-1", false, 0},         {"", false, 0},
                {"Web", false, 0},   {"65535", true, 65535}, {"2147483648", false, 0}, {"1.5", false, 0}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        int port = 0;
        cleanup_error struct error err = {0};
        ck_assert_msg(port_target_parse(rows[i].text, &port, &err) == rows[i].ok, "%s", rows[i].text);
        ck_assert_int_eq(port, rows[i].port);
    }
}
END_TEST

START_TEST(services_and_answers) {
    cleanup_object struct object *sandbox = sandbox_of("demo-1");
    cleanup_json json_t *service = port_service(sandbox, 3000, "web", "https", NULL);
    assert_json(
        service,
        "{'apiVersion':'v1','kind':'Service','metadata':{'name':'pf-demo-1-3000','namespace':'default',"
        "'labels':{'agenttier.io/port-forward':'true','agenttier.io/sandbox':'demo-1',"
        "'agenttier.io/port':'3000'},"
        "'annotations':{'agenttier.io/port-name':'web','agenttier.io/port-protocol':'https'},"
        "'ownerReferences':[{'apiVersion':'agenttier.io/v1alpha1','kind':'Sandbox','name':'demo-1',"
        "'uid':'u-1','controller':true,'blockOwnerDeletion':true}]},"
        "'spec':{'type':'ClusterIP','selector':{'agenttier.io/sandbox':'demo-1'},"
        "'ports':[{'name':'http','port':3000,'targetPort':3000,'protocol':'TCP'}]}}");
    cleanup_json json_t *shown = port_json(service, "demo-1", "http://h:1", "");
    assert_json(shown, "{'name':'web','port':3000,'protocol':'https',"
                       "'previewUrl':'http://h:1/api/v1/sandboxes/demo-1/preview/3000/',"
                       "'internalUrl':'http://pf-demo-1-3000.default.svc.cluster.local:3000'}");
    static const char *const domains[] = {"preview.example.org", ".preview.example.org",
                                          " preview.example.org "};
    for (size_t i = 0; i < sizeof domains / sizeof domains[0]; i++) {
        cleanup_json json_t *with = port_json(service, "demo-1", "http://h:1", domains[i]);
        ck_assert_str_eq(json_str_at(with, "ingressUrl"), "https://sandbox-demo-1-3000.preview.example.org/");
    }
}
END_TEST

START_TEST(services_of_others) {
    cleanup_json json_t *bare =
        json_of("{'metadata':{'name':'pf-a-80','namespace':'n'},'spec':{'ports':[{'port':80}]}}");
    char scratch[8];
    ck_assert_str_eq(port_name(bare, scratch), "80");
    ck_assert_str_eq(port_protocol(bare), "http");
    static const char *const odd[] = {"{}", "{'spec':{'ports':[]}}", "{'spec':{'ports':[{'port':99999}]}}",
                                      "{'spec':{'ports':[{'port':'80'}]}}", "{'spec':{'ports':{}}}"};
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
        cleanup_json json_t *service = json_of(odd[i]);
        ck_assert_int_eq(port_of(service), 0);
    }
    char name[61];
    memset(name, 'a', 60);
    name[60] = '\0';
    cleanup_object struct object *sandbox = sandbox_of(name);
    cleanup_error struct error err = {0};
    ck_assert_ptr_null(port_service(sandbox, 80, "80", "http", &err));
    ck_assert_int_eq(err.status, 400);
    name[55] = '\0';
    cleanup_object struct object *fits = sandbox_of(name);
    cleanup_json json_t *service = port_service(fits, 8000, "x", "http", NULL);
    ck_assert_uint_eq(strlen(json_str_at(service, "metadata.name")), 63);
}
END_TEST

/* Ports from 8000 to 8009 are forwarded, each by the name "web". */
static bool named_web(void *ctx, int port, const char *name) {
    (void)ctx;
    return port >= 8000 && port < 8010 && strcmp(name, "web") == 0;
}

START_TEST(names_are_claimed_once) {
    cleanup_json json_t *sandbox = json_of("{'metadata':{'name':'demo'}}");
    ck_assert_int_eq(port_name_claim(sandbox, "web", 8000, 1000, named_web, NULL), 0);
    ck_assert_int_eq(port_name_claim(sandbox, "web", 8000, 1001, named_web, NULL), 0);
    ck_assert_int_eq(port_name_claim(sandbox, "web", 9000, 1002, named_web, NULL), 8000);
    ck_assert_int_eq(port_name_claim(sandbox, "web", 9000, 9999, named_web, NULL), 8000); /* borne out */
    ck_assert_int_eq(port_name_claim(sandbox, "api", 9000, 1002, named_web, NULL), 0);
    ck_assert_int_eq(port_name_claim(sandbox, "api", 9001, 1002 + PORT_CLAIM_FRESH_S - 1, named_web, NULL),
                     9000);
    ck_assert_int_eq(port_name_claim(sandbox, "api", 9001, 1002 + PORT_CLAIM_FRESH_S, named_web, NULL), 0);
    ck_assert_int_eq(port_name_claimed(sandbox, "api"), 9001);
    ck_assert_int_eq(port_name_claimed(sandbox, "none"), 0);
    ck_assert(!port_name_release(sandbox, 9000));
    ck_assert(port_name_release(sandbox, 9001));
    ck_assert_int_eq(port_name_claimed(sandbox, "api"), 0);
    /* Another name for a port frees its old one. */
    ck_assert_int_eq(port_name_claim(sandbox, "new", 8000, 2000, named_web, NULL), 0);
    ck_assert_int_eq(port_name_claim(sandbox, "web", 9000, 2000, named_web, NULL), 0);
    ck_assert(port_name_release(sandbox, 8000));
    ck_assert(port_name_release(sandbox, 9000));
    assert_json(sandbox, "{'metadata':{'name':'demo','annotations':{}}}");
}
END_TEST

START_TEST(broken_claims_count_for_nothing) {
    static const char *const texts[] = {
        "x",
        "[]",
        "{`web`:8000}",
        "{`web`:{`port`:0,`at`:1000}}",
        "{`web`:{`port`:70000,`at`:1000}}",
        "{`web`:{`port`:`8000`,`at`:1000}}",
        "{`web`:{`port`:9100,`at`:9000000000000}}",
        "{`web`:{`port`:9100}}",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        cleanup_free char *text = xasprintf(
            "{'metadata':{'annotations':{'agenttier.io/port-names':'%s','other':'kept'}}}", texts[i]);
        cleanup_json json_t *sandbox = json_of(text);
        ck_assert_msg(port_name_claim(sandbox, "web", 9000, 1010, named_web, NULL) == 0, "row %zu", i);
        ck_assert_str_eq(sandbox_annotation(sandbox, ANNOTATION_PORT_NAMES),
                         "{\"web\":{\"at\":1010,\"port\":9000}}");
        ck_assert_str_eq(sandbox_annotation(sandbox, "other"), "kept");
    }
}
END_TEST

START_TEST(W96_ingresses) {
    cleanup_object struct object *sandbox = sandbox_of("demo");
    const struct port_publishing plain = {" .p.example.org ", "", NULL};
    cleanup_json json_t *bare = port_ingress(sandbox, 80, &plain, NULL);
    assert_json(
        json_object_get(bare, "spec"),
        "{'rules':[{'host':'sandbox-demo-80.p.example.org','http':{'paths':[{'path':'/','pathType':'Prefix',"
        "'backend':{'service':{'name':'pf-demo-80','port':{'number':80}}}}]}}]}");
    const struct port_publishing full = {"x.org", "nginx", "wild"};
    cleanup_json json_t *tls = port_ingress(sandbox, 80, &full, NULL);
    assert_json(json_at(tls, "spec.tls"), "[{'hosts':['sandbox-demo-80.x.org'],'secretName':'wild'}]");
    ck_assert_str_eq(json_str_at(tls, "spec.ingressClassName"), "nginx");
    cleanup_object struct object *long_name =
        sandbox_of("a23456789-123456789-123456789-123456789-123456789-1234"); /* 54 + 11 */
    cleanup_error struct error err = {0};
    ck_assert(port_ingress(long_name, 80, &full, &err) == NULL);
    assert_field_error(&err, "port");
}
END_TEST

RUN_TESTS("ports", W96_ingresses, requests, targets, services_and_answers, services_of_others,
          names_are_claimed_once, broken_claims_count_for_nothing)
