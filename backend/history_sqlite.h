/* The inside of a history_db: only history_db.c and history_query.c include this. */
#pragma once

#include "backend/history_db.h"

#include <sqlite3.h>

struct history_db {
    sqlite3 *sqlite;
    char *path;
    char replica[33]; /* names this file among those of other replicas */
    sqlite3_stmt *add_action, *add_event;
};

/* Says in `err` what SQLite's last error means. Always false. */
bool history_db_failed(struct history_db *db, const char *doing, struct error *err);
