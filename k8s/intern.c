#include "k8s/intern.h"

#include "common/text.h"

#include <stdint.h>
#include <string.h>

void intern_init(struct intern *t) {
    *t = (struct intern){0};
    pthread_mutex_init(&t->lock, NULL);
}

void intern_free(struct intern *t) {
    for (size_t i = 0; i < INTERN_SLOTS; i++)
        json_decref(t->slots[i]);
    pthread_mutex_destroy(&t->lock);
}

static size_t slot_of(const char *text, size_t len) {
    uint64_t h = text_hash(slice_make(text, len));
    return (h ^ h >> 32) % INTERN_SLOTS;
}

/* The one to use instead, borrowed; NULL: `value` itself, which is known from now on. */
static json_t *known(struct intern *t, json_t *value) {
    size_t len = json_string_length(value);
    const char *text = json_string_value(value);
    if (len > INTERN_MAX_TEXT) return NULL;
    json_t **slot = &t->slots[slot_of(text, len)];
    if (*slot == value) return NULL;
    if (*slot && json_string_length(*slot) == len && memcmp(json_string_value(*slot), text, len) == 0)
        return *slot;
    json_decref(*slot);
    *slot = json_incref(value);
    return NULL;
}

/* Depth is bounded by the parser. */
static void walk(struct intern *t, json_t *tree) {
    size_t i;
    const char *key;
    json_t *value, *shared;
    void *next;
    if (json_is_object(tree)) {
        json_object_foreach_safe(tree, next, key, value) {
            if (!json_is_string(value))
                walk(t, value);
            else if ((shared = known(t, value)) != NULL)
                json_object_set(tree, key, shared);
        }
    } else if (json_is_array(tree)) {
        json_array_foreach(tree, i, value) {
            if (!json_is_string(value))
                walk(t, value);
            else if ((shared = known(t, value)) != NULL)
                json_array_set(tree, i, shared);
        }
    }
}

void intern_tree(struct intern *t, json_t *tree) {
    pthread_mutex_lock(&t->lock);
    walk(t, tree);
    pthread_mutex_unlock(&t->lock);
}
