/* Requests whose caller cannot be told from memory: the question goes to a worker thread, the request
 * waits on its loop. A few at a time for each loop, so that a slow identity provider or apiserver
 * does not take the workers that everything else needs. */
#pragma once

#include "router/server.h"

/* Takes the question. `done` is called on the loop with the answer, unless the wait was given up. False: too
 * many wait already, 503. */
bool verification_start(struct exchange *x, struct auth_question *question,
                        void (*done)(struct exchange *x, struct auth_question *question), struct error *err);
/* The exchange goes away: the answer will be dropped. */
void verification_abandon(struct exchange *x);
