/* What all requests share: configuration, the backend, counters. Made once by main,
 * read-only for handlers except where a member says otherwise. */
#pragma once

#include "backend/backend.h"
#include "router/config.h"

#include <stdatomic.h>

struct metrics;
struct governance;
struct history;
struct key_cache;
struct quota;
struct bearer;
struct rate_limiter;
struct terminals;

#define ROUTER_TOUCHES 4
#define ROUTER_LOOKERS 64

struct router {
    const struct config *config;
    struct backend *backend;
    struct metrics *metrics;
    struct key_cache *keys;
    struct governance *governance; /* policies in force */
    struct quota *quota;
    struct history *history;                  /* NULL = none is kept */
    _Atomic int history_questions;            /* to other replicas, under way: audit_api.c bounds them */
    struct bearer *bearer;                    /* tokens of issuers and service accounts */
    struct rate_limiter *rate_limiter;        /* NULL = off */
    struct terminals *terminals;              /* all that are open */
    _Atomic int64_t exec_output_bytes;        /* held by all execs under way: exec.c bounds it */
    _Atomic int64_t body_bytes;               /* of large JSON bodies under way: exchange.c bounds them */
    _Atomic uint64_t touches[ROUTER_TOUCHES]; /* sandboxes whose activity is being written: activity.c */
    _Atomic bool warned_of_proxy;             /* request.c says it once */
    _Atomic uint64_t second_looks[ROUTER_LOOKERS], strangers_looks; /* second_look.c bounds them */
    _Atomic bool draining; /* SIGTERM seen: new requests are refused */
};
