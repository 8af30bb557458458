/* What a template may hold: http-api.md 2.14, http-api-extended.md 12.1. */
#include "router/template_spec.h"
#include "tests/unit/router/fixture.h"

static void assert_stored(const char *text, const char *want) {
    cleanup_json json_t *spec = json_of(text);
    cleanup_error struct error err = {0};
    cleanup_json json_t *stored = template_spec_parse(spec, &err);
    ck_assert_msg(stored != NULL, "%s: %s", text, err.message);
    assert_json(stored, want);
    /* What was stored once is stored again as it is. */
    cleanup_json json_t *again = template_spec_parse(stored, &err);
    ck_assert_msg(json_equal(stored, again), "changes when written again: %s", text);
}

static void assert_refused(const char *text, const char *field) {
    cleanup_json json_t *spec = json_of(text);
    cleanup_error struct error err = {0};
    cleanup_json json_t *stored = template_spec_parse(spec, &err);
    ck_assert_msg(stored == NULL, "taken: %s", text);
    assert_field_error(&err, field);
}

START_TEST(specs) {
    assert_stored("{}", "{}");
    assert_stored("{'bogus':1,'mode':null,'image':{'repository':'a:1','tag':'x'}}",
                  "{'image':{'repository':'a:1'}}");
    assert_stored(
        "{'image':'a:1','storage':'1024Mi','timeout':'24h','idleTimeout':'0'}",
        "{'image':{'repository':'a:1'},'storage':{'size':'1Gi'},'timeout':'24h0m0s','idleTimeout':'0s'}");
    assert_stored("{'resources':{'limits':{'cpu':0.5,'memory':'1024Mi'},'requests':{'cpu':'100m'},'x':1}}",
                  "{'resources':{'limits':{'cpu':'500m','memory':'1Gi'},'requests':{'cpu':'100m'}}}");
    assert_stored(
        "{'mode':'agent','inheritsFrom':{'name':'base','kind':'ClusterSandboxTemplate'},"
        "'env':[{'name':'A','value':'1'},{'name':'B','valueFrom':{'secretKeyRef':{'name':'s','key':'k'}}}],"
        "'network':{'allowInternet':true,'egressRules':[{'cidr':'10.0.0.0/8','ports':[{'port':53}]}]},"
        "'files':[{'path':'/etc/x','content':'y','mode':420}],'initScripts':['true'],"
        "'credentials':[{'secretName':'s'}],'sidecars':[{'name':'c','image':'i','any':{'thing':1}}],"
        "'security':{'privileged':false},'harness':{'shell':'/bin/sh','useHTTPExec':false,"
        "'agent':{'entrypoint':['a'],'maxConcurrentInvokes':2,'defaultInvokeTimeout':'10m'}}}",
        "{'mode':'agent','inheritsFrom':{'name':'base','kind':'ClusterSandboxTemplate'},"
        "'env':[{'name':'A','value':'1'},{'name':'B','valueFrom':{'secretKeyRef':{'name':'s','key':'k'}}}],"
        "'network':{'allowInternet':true,'egressRules':[{'cidr':'10.0.0.0/8','ports':[{'port':53}]}]},"
        "'files':[{'path':'/etc/x','content':'y','mode':420}],'initScripts':['true'],"
        "'credentials':[{'secretName':'s'}],'sidecars':[{'name':'c','image':'i','any':{'thing':1}}],"
        "'security':{'privileged':false},'harness':{'shell':'/bin/sh','useHTTPExec':false,"
        "'agent':{'entrypoint':['a'],'maxConcurrentInvokes':2,'defaultInvokeTimeout':'10m0s'}}}");
}
END_TEST

START_TEST(wrong_types) {
    static const char *const rows[][2] = {
        {"[]", "spec"},
        {"'x'", "spec"},
        {"{'mode':'root'}", "spec.mode"},
        {"{'description':7}", "spec.description"},
        {"{'image':{}}", "spec.image.repository"},
        {"{'image':[]}", "spec.image"},
        {"{'resources':{'limits':{'cpu':'two'}}}", "spec.resources.limits.cpu"},
        {"{'resources':'2'}", "spec.resources"},
        {"{'storage':{'size':'big'}}", "spec.storage.size"},
        {"{'storage':{'mountPath':'w'}}", "spec.storage.mountPath"},
        {"{'timeout':'1d'}", "spec.timeout"},
        {"{'timeout':'-1h'}", "spec.timeout"},
        {"{'idleTimeout':60}", "spec.idleTimeout"},
        {"{'env':{'A':'1'}}", "spec.env"},
        {"{'env':[{'value':'1'}]}", "spec.env[0].name"},
        {"{'env':[{'name':'A','value':1}]}", "spec.env[0].value"},
        {"{'network':{'allowInternet':'yes'}}", "spec.network.allowInternet"},
        {"{'network':{'egressRules':[{'ports':[{'port':'53'}]}]}}",
         "spec.network.egressRules[0].ports[0].port"},
        {"{'initScripts':'true'}", "spec.initScripts"},
        {"{'initScripts':[1]}", "spec.initScripts"},
        {"{'files':[{'content':'x'}]}", "spec.files[0].path"},
        {"{'files':[{'path':'/a','mode':4294967296}]}", "spec.files[0].mode"},
        {"{'credentials':[{}]}", "spec.credentials[0].secretName"},
        {"{'sidecars':{}}", "spec.sidecars"},
        {"{'sidecars':[7]}", "spec.sidecars[0]"},
        {"{'security':true}", "spec.security"},
        {"{'inheritsFrom':{}}", "spec.inheritsFrom.name"},
        {"{'harness':{'agent':{'defaultInvokeTimeout':'soon'}}}", "spec.harness.agent.defaultInvokeTimeout"},
        {"{'harness':{'command':'sh'}}", "spec.harness.command"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_refused(rows[i][0], rows[i][1]);
}
END_TEST

START_TEST(names_and_answers) {
    static const char *const good[] = {"a", "general-coding", "py3.11", "0"};
    static const char *const bad[] = {"", "A", "-a", "a-", "a..b", ".a", "a/b", "a b", "a_b"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        ck_assert(template_name_valid(good[i]));
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        ck_assert(!template_name_valid(bad[i]));
    cleanup_json json_t *stored = json_of("{'metadata':{'name':'a','resourceVersion':'7'},"
                                          "'spec':{'description':'d','image':{'repository':'r'}}}");
    cleanup_json json_t *shown = template_json(stored);
    assert_json(shown, "{'name':'a','description':'d','image':'r','resourceVersion':'7',"
                       "'spec':{'description':'d','image':{'repository':'r'}}}");
    cleanup_json json_t *bare = json_of("{'metadata':{'name':'a','resourceVersion':'7'}}");
    cleanup_json json_t *empty = template_json(bare);
    assert_json(empty, "{'name':'a','description':'','image':'','resourceVersion':'7','spec':{}}");
}
END_TEST

RUN_TESTS("template_spec", specs, wrong_types, names_and_answers)
