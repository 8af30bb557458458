/* When memory is asked whether it is behind, and how often that may be (observed.md O3, W-56, W-90). */
#include "router/freshness.h"
#include "router/second_look.h"
#include "tests/unit/router/fixture.h"

#include <time.h>

static int64_t age;
static bool has_it;

static struct object *get(struct store *s, enum kind kind, const char *namespace, const char *name) {
    (void)s;
    ck_assert_str_eq(namespace, "default");
    ck_assert_str_eq(name, "demo");
    return has_it ? object_new(kind,
                               json_of("{'metadata':{'namespace':'default','name':'demo','uid':'u',"
                                       "'resourceVersion':'1'}}"),
                               1)
                  : NULL;
}

static bool look(struct store *s, enum kind kind, const char *namespace, const char *name,
                 struct error *err) {
    (void)s, (void)kind, (void)namespace, (void)name, (void)err;
    return true;
}

static int64_t age_ms(struct store *s) {
    (void)s;
    return age;
}

static const struct store_ops behind = {.get = get, .look = look, .age_ms = age_ms},
                              current = {.get = get, .age_ms = age_ms};
static struct store store;
static struct backend backend = {.store = &store};
static struct router router = {.backend = &backend};

static void set_up(void) {
    store.ops = &behind;
    age = 0;
    has_it = false;
    atomic_store(&router.strangers_looks, 0);
    for (int i = 0; i < ROUTER_LOOKERS; i++)
        atomic_store(&router.second_looks[i], 0);
}

static enum second_look_need need(const char *caller, bool again) {
    struct second_look out = {0};
    enum second_look_need result =
        second_look_need(&router, caller, KIND_SANDBOX, "default", "demo", again, &out);
    ck_assert_int_eq(result == LOOK_WANTED, out.store != NULL);
    second_look_free(&out);
    return result;
}

START_TEST(what_is_missing_is_looked_for) {
    set_up();
    ck_assert_int_eq(need("ana", false), LOOK_WANTED);
    has_it = true;
    ck_assert_int_eq(need("ana", false), LOOK_NEEDLESS);
    ck_assert_int_eq(need("ana", true), LOOK_WANTED);
}
END_TEST

START_TEST(memory_that_is_current_or_lost_is_not_asked_about) {
    set_up();
    age = FRESHNESS_DOUBT_MS; /* the answer says so, whatever it is */
    ck_assert_int_eq(need("ana", false), LOOK_NEEDLESS);
    age = 0;
    store.ops = &current;
    ck_assert_int_eq(need("ana", false), LOOK_NEEDLESS);
}
END_TEST

static time_t second_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return now.tv_sec;
}

/* How many of `count` are wanted within one and the same second. */
static int wanted_of(const char *caller, int count) {
    for (;;) {
        time_t started = second_now();
        int wanted = 0;
        for (int i = 0; i < count; i++)
            wanted += need(caller, false) == LOOK_WANTED;
        if (second_now() == started) return wanted;
        set_up();
    }
}

START_TEST(looks_are_bounded_for_each_second) {
    set_up();
    ck_assert_int_eq(wanted_of(NULL, 300), SECOND_LOOKS_OF_STRANGERS);
    set_up();
    ck_assert_int_eq(wanted_of("ana", 300), SECOND_LOOKS_OF_CALLER);
}
END_TEST

START_TEST(everybody_uses_up_only_their_own) {
    set_up();
    ck_assert_int_eq(wanted_of("ben", 300), SECOND_LOOKS_OF_CALLER);
    ck_assert_int_eq(wanted_of(NULL, 300), SECOND_LOOKS_OF_STRANGERS);
    ck_assert_int_eq(need("ana", false), LOOK_WANTED);
}
END_TEST

START_TEST(the_next_second_begins_anew) {
    set_up();
    wanted_of("ana", 300);
    for (time_t full = second_now(); second_now() == full;)
        nanosleep(&(struct timespec){0, 10000000}, NULL);
    ck_assert_int_eq(need("ana", false), LOOK_WANTED);
}
END_TEST

RUN_TESTS("second_look", what_is_missing_is_looked_for, memory_that_is_current_or_lost_is_not_asked_about,
          looks_are_bounded_for_each_second, everybody_uses_up_only_their_own, the_next_second_begins_anew)
