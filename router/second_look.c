#include "router/second_look.h"

#include "common/text.h"
#include "router/freshness.h"

#include <time.h>

/* Seconds in the upper bits, looks of that second in the lower. */
static bool is_allowed(struct router *router, const char *caller) {
    const uint64_t most = caller ? SECOND_LOOKS_OF_CALLER : SECOND_LOOKS_OF_STRANGERS;
    _Atomic uint64_t *looks = caller ? &router->second_looks[text_hash(slice_of(caller)) % ROUTER_LOOKERS]
                                     : &router->strangers_looks;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    uint64_t second = (uint64_t)now.tv_sec << 16, old = atomic_load(looks), next;
    do {
        next = (old & ~UINT64_C(0xffff)) == second ? old + 1 : second + 1;
        if ((next & 0xffff) > most) return false;
    } while (!atomic_compare_exchange_weak(looks, &old, next));
    return true;
}

enum second_look_need second_look_need(struct router *router, const char *caller, enum kind kind,
                                       const char *namespace, const char *name, bool again,
                                       struct second_look *out) {
    struct store *store = router->backend->store;
    if (!store->ops->look || store_age_ms(store) >= FRESHNESS_DOUBT_MS) return LOOK_NEEDLESS;
    cleanup_object struct object *there = store->ops->get(store, kind, namespace, name);
    if (there && !again) return LOOK_NEEDLESS;
    if (!is_allowed(router, caller)) return LOOK_REFUSED;
    *out = (struct second_look){store, kind, xstrdup(namespace), xstrdup(name)};
    return LOOK_WANTED;
}

bool second_look_run(struct second_look *look, struct error *err) {
    return look->store->ops->look(look->store, look->kind, look->namespace, look->name, err);
}

void second_look_free(struct second_look *look) {
    free(look->namespace);
    free(look->name);
    *look = (struct second_look){0};
}
