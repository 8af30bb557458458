/* Command-line flags and environment variables of a program into a struct, by one table that says everything
 * about a flag; --help is printed from it. "--name=value", "--name value", one dash or two; a flag wins over
 * its environment variable, that over the fallback; an empty value means "not set". */
#pragma once

#include "common/error.h"

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum flag_type {
    FLAG_STRING,     /* const char * */
    FLAG_LIST,       /* const char *: may be given again, the texts are joined by commas */
    FLAG_BOOL,       /* bool; alone it is true */
    FLAG_RATE,       /* double, 0 to 1,000,000 */
    FLAG_COUNT,      /* int, from `least` to `most` */
    FLAG_DURATION,   /* int64_t milliseconds; not empty: at least `least` */
    FLAG_LOG_LEVEL,  /* enum log_level */
    FLAG_LOG_FORMAT, /* enum log_format; empty: text when the log goes to a terminal */
    FLAG_OFF,        /* nothing: of something that is not here, only its value for "off" is taken */
    FLAG_WITHOUT     /* nothing: belongs to something that is not here, any value is taken */
};

struct flag {
    const char *name;
    enum flag_type type;
    size_t offset;        /* in the struct that is filled in */
    const char *env;      /* environment variable that gives the default, or NULL */
    const char *fallback; /* never NULL */
    const char *argument; /* how --help names the value, or NULL */
    const char *help;     /* NULL: not shown */
    int64_t least, most;  /* of FLAG_COUNT, FLAG_DURATION (least only) */
    bool never_empty;     /* FLAG_STRING: an empty value is the fallback */
};

#define FLAGS_JOINED_MAX 4
struct flags {
    const struct flag *table;
    size_t count;
    int log_fd;                     /* where the log goes */
    char *joined[FLAGS_JOINED_MAX]; /* owned texts of flags that were given more than once; flags_free */
};

enum flags_result { FLAGS_RUN, FLAGS_HELP, FLAGS_VERSION, FLAGS_ERROR };
/* Fills in `into`; its strings point into argv, the environment, the table or `flags`. FLAGS_ERROR: err says
 * what to change. */
enum flags_result flags_parse(struct flags *flags, int argc, char **argv, void *into, struct error *err);
/* One line for each flag, --version and --help. */
void flags_print_help(const struct flags *flags, FILE *out);
void flags_free(struct flags *flags);
