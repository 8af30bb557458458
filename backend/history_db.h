/* The history in an SQLite file: schema and migrations, writing in batches, reading by filters, retention.
 * One connection is used by one thread at a time. (http-api.md 6.3, http-api-extended.md 16)
 *
 * Tables and columns of the reference are kept as they are, so a file of either is taken by the other; ours
 * are added to `audit_events` and `sandbox_events`. `cost_snapshots` is made and left alone. */
#pragma once

#include "common/bytes.h"
#include "common/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* One thing that happened. Texts are never NULL, "" = unknown. */
struct history_entry {
    char ts[40];   /* RFC 3339, UTC, nine digits: sorts as text */
    bool is_event; /* of a Sandbox; else an action of a caller */
    const char *sandbox, *namespace;
    /* actions */
    const char *actor, *email, *action, *resource, *outcome, *request_id, *source, *details;
    int status;
    /* events */
    const char *key; /* the same event again has the same key and is written once */
    const char *phase, *reason, *message, *type;
};

/* What is asked for; NULL = whatever. */
struct history_filter {
    const char *actor, *sandbox, *namespace, *type; /* type: the action or the event's reason */
    const char *outcome, *request_id, *kind;        /* kind: "action" or "event" */
    char since[40], until[40];                      /* as in history_entry, "" = not given; since included */
    const char *cursor;                             /* of the page before */
    int limit;
};

struct history_db;
/* Opens or creates the file and brings it up to date. `read_only`: for queries beside a writer. */
struct history_db *history_db_open(const char *path, bool read_only, struct error *err);
void history_db_close(struct history_db *db);

bool history_db_begin(struct history_db *db, struct error *err);
bool history_db_add(struct history_db *db, const struct history_entry *entry, struct error *err);
/* On disk when it returns true. On failure everything since begin is undone. */
bool history_db_commit(struct history_db *db, struct error *err);
void history_db_rollback(struct history_db *db);

/* Removes at most `most` of the oldest entries that are older than `before` (a text as history_entry.ts;
 * NULL: of any age, those of callers who were not logged in before all others). *removed: how many. */
bool history_db_prune(struct history_db *db, const char *before, int most, int *removed, struct error *err);
/* Bytes in use: the file without its free pages. */
int64_t history_db_size(struct history_db *db);

/* The newest first: an array of the objects that GET /audit/events shows, a new reference. Each has a
 * `cursor`: the place after which a page may begin, in the files of all replicas. *cursor: of the next page,
 * malloc'ed, or NULL when there is none. NULL with 400 for a bad cursor. */
json_t *history_db_query(struct history_db *db, const struct history_filter *filter, char **cursor,
                         struct error *err);
/* Which of two entries comes first on pages, by their cursors: below 0 = a. What is no cursor comes last.
 * Pure. */
int history_cursor_order(const char *a, const char *b);
/* The plan of the queries that a filter leads to, one step a line, malloc'ed: for tests. */
char *history_db_plan(struct history_db *db, const struct history_filter *filter);

/* The object of one event (http-api-extended.md 8.1): a new reference. */
json_t *history_event_json(const struct history_entry *event);
