/* Log lines for people (text) or machines (JSON), each written whole, to standard error.
 *
 *   log_info("sandbox started", "sandbox", name, "ms", log_int(took), NULL);
 *
 * Fields are name/value pairs of strings, ended by NULL. Values are escaped, so a line is
 * always one line (lessons S28). Never pass a credential: there is no redaction here that
 * could save you. Thread-safe. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_LEVEL_DEBUG, LOG_LEVEL_INFO, LOG_LEVEL_WARN, LOG_LEVEL_ERROR, LOG_LEVEL_OFF };
enum log_format { LOG_FORMAT_TEXT, LOG_FORMAT_JSON };

/* Set once by main before threads start. Default: info, text, fd 2. */
void log_configure(enum log_level level, enum log_format format, int fd);
bool log_enabled(enum log_level level);

void log_write(enum log_level level, const char *message, ...) __attribute__((sentinel));
#define log_debug(...) (log_enabled(LOG_LEVEL_DEBUG) ? log_write(LOG_LEVEL_DEBUG, __VA_ARGS__) : (void)0)
#define log_info(...)  (log_enabled(LOG_LEVEL_INFO) ? log_write(LOG_LEVEL_INFO, __VA_ARGS__) : (void)0)
#define log_warn(...)  (log_enabled(LOG_LEVEL_WARN) ? log_write(LOG_LEVEL_WARN, __VA_ARGS__) : (void)0)
#define log_error(...) (log_enabled(LOG_LEVEL_ERROR) ? log_write(LOG_LEVEL_ERROR, __VA_ARGS__) : (void)0)

/* A thread that serves many requests in turn may collect its lines and write them with one call before it
 * waits: log_collect(true) once, then log_flush() whenever it is about to wait. Warnings and errors are
 * written at once, with what was collected before them. log_collect(false) writes the rest. */
void log_collect(bool on);
void log_flush(void);

/* A number as text for one log call: a small per-thread ring, valid until 8 calls later. */
const char *log_int(int64_t n);
/* Likewise a duration in milliseconds, to the microsecond. */
const char *log_milliseconds(uint64_t nanoseconds);
