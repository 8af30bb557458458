#include "k8s/list_reader.h"

#include "common/json.h"

void list_reader_init(struct list_reader *r, list_reader_item *on_item, void *ctx) {
    *r = (struct list_reader){.on_item = on_item, .ctx = ctx};
    r->head.limit = LIST_READER_MAX_HEAD;
    r->item.limit = LIST_READER_MAX_ITEM;
}

void list_reader_free(struct list_reader *r) {
    buffer_free(&r->head);
    buffer_free(&r->item);
}

static bool refuse(struct error *err, const char *why) {
    error_set(err, 502, "bad_answer", "the list that the Kubernetes API sent %s", why);
    return false;
}

/* Whether what was read so far ends in "items": at the top level. */
static bool items_follow(const struct list_reader *r) {
    static const char name[] = "smeti"; /* backwards */
    size_t n = r->head.len;
    const char *p = r->head.data;
    while (n > 0 && strchr(" \t\r\n", p[n - 1]))
        n--;
    if (n == 0 || p[--n] != ':') return false;
    while (n > 0 && strchr(" \t\r\n", p[n - 1]))
        n--;
    if (n == 0 || p[--n] != '"') return false;
    for (size_t i = 0; i < sizeof name - 1; i++)
        if (n == 0 || p[--n] != name[i]) return false;
    return n > 0 && p[n - 1] == '"';
}

/* Follows strings and brackets; what is inside is left to the parser. */
static void follow(struct list_reader *r, char c) {
    if (r->in_string) {
        if (r->escaped)
            r->escaped = false;
        else if (c == '\\')
            r->escaped = true;
        else if (c == '"')
            r->in_string = false;
    } else if (c == '"') {
        r->in_string = true;
    } else if (c == '{' || c == '[') {
        r->depth++;
    } else if ((c == '}' || c == ']') && r->depth > 0) {
        r->depth--;
    }
}

static bool finish_item(struct list_reader *r, struct slice rest, struct error *err) {
    struct slice text = rest;
    if (r->item.len > 0) {
        if (!buffer_append(&r->item, rest.ptr, rest.len)) return refuse(err, "has an item above 8 MiB");
        text = buffer_slice(&r->item);
    }
    bool ok = r->on_item(r->ctx, text);
    buffer_clear(&r->item);
    return ok || refuse(err, "has an item that cannot be used");
}

/* Reads within "items". Items stand at depth 2; at depth 1 the list of items has ended. */
static bool feed_items(struct list_reader *r, struct slice bytes, size_t *at, struct error *err) {
    size_t start = *at;
    while (*at < bytes.len) {
        char c = bytes.ptr[*at];
        unsigned before = r->depth;
        if (!r->in_string && before == 2 && c != '{' && c != ']' && !strchr(" \t\r\n,", c))
            return refuse(err, "has an item that is not an object");
        follow(r, c);
        ++*at;
        if (before == 2 && r->depth == 3) start = *at - 1;
        if (before == 3 && r->depth == 2 && !finish_item(r, slice_make(bytes.ptr + start, *at - start), err))
            return false;
        if (r->depth == 1) {
            r->in_items = false;
            return buffer_append_str(&r->head, "[]") || refuse(err, "is too large around its items");
        }
    }
    if (r->depth >= 3 && !buffer_append(&r->item, bytes.ptr + start, bytes.len - start))
        return refuse(err, "has an item above 8 MiB");
    return true;
}

bool list_reader_feed(struct list_reader *r, struct slice bytes, struct error *err) {
    for (size_t i = 0; i < bytes.len;) {
        if (r->in_items) {
            if (!feed_items(r, bytes, &i, err)) return false;
            continue;
        }
        char c = bytes.ptr[i++];
        if (r->depth == 1 && !r->in_string && c == '[' && items_follow(r)) {
            r->in_items = true;
            r->depth = 2;
            continue;
        }
        if (r->ended && !strchr(" \t\r\n", c)) return refuse(err, "goes on after its end");
        follow(r, c);
        if (c == '}' && r->depth == 0 && !r->in_string) r->ended = true;
        if (!buffer_append_char(&r->head, c)) return refuse(err, "is too large around its items");
    }
    return true;
}

json_t *list_reader_end(struct list_reader *r, struct error *err) {
    if (r->in_items || !r->ended) {
        refuse(err, "was cut");
        return NULL;
    }
    json_t *list = json_parse_object(buffer_slice(&r->head), err);
    if (!list) refuse(err, "is not JSON");
    return list;
}
