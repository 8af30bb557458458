/* A work queue of keys: each key is in it once, no two passes are made for one key at the same time, and what
 * is asked for during a pass leads to another one after it. Times are kept here too: the next pass, and the
 * growing pause after failures (controller.md 1.1). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct queue;

#define PASS_AGAIN  0    /* at once */
#define PASS_NONE   (-1) /* when queue_add() asks for it */
#define PASS_FAILED (-2) /* after a pause: 5 ms, doubled with each failure in a row, at most 30 s */
#define PASS_FORGET (-3) /* the key is done with: its memory is freed */

/* Makes a pass and says when the next one is due: milliseconds, or one of the above. `*memory` is the key's
 * own, NULL at first, malloc'ed by the pass, kept between passes. */
typedef int64_t queue_pass_fn(void *ctx, const char *key, void **memory);

/* Starts the workers, paused. */
struct queue *queue_start(int workers, queue_pass_fn *pass, void *ctx);
void queue_stop(struct queue *q);                 /* waits for passes under way */
void queue_add(struct queue *q, const char *key); /* any thread, never blocks for long */
/* Paused, no pass begins; queue_pause(true) returns when none is under way. Keys are still taken. */
void queue_pause(struct queue *q, bool paused);
size_t queue_depth(struct queue *q); /* keys that wait for a worker */
