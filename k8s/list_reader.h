/* Reads the JSON of a list {"metadata": {...}, "items": [...]} as it arrives: hands out one item after the
 * other, so that a page never stands in memory as a whole. A pure function on bytes; hostile input
 * is refused, never waited for. */
#pragma once

#include "common/bytes.h"
#include "common/error.h"

#include <jansson.h>

#define LIST_READER_MAX_ITEM (8 * 1024 * 1024) /* an apiserver stores at most 1.5 MiB */
#define LIST_READER_MAX_HEAD (64 * 1024)       /* what is not an item */

/* One item's text, valid during the call. False ends the reading. */
typedef bool list_reader_item(void *ctx, struct slice text);

struct list_reader {
    list_reader_item *on_item;
    void *ctx;
    struct buffer head; /* the list without its items */
    struct buffer item; /* the item so far, when it came in pieces */
    unsigned depth;
    bool in_string, escaped, in_items, ended;
};

void list_reader_init(struct list_reader *r, list_reader_item *on_item, void *ctx);
void list_reader_free(struct list_reader *r);
/* False: not such a list, or too large; err = 502 bad_answer. */
bool list_reader_feed(struct list_reader *r, struct slice bytes, struct error *err);
/* After the last byte: the list without its items (a new reference), or NULL with err when it was cut. */
json_t *list_reader_end(struct list_reader *r, struct error *err);
