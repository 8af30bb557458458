/* Sends agenttier-runtime into pods over pods/exec and starts it there (--runtime-delivery=exec): the program
 * into the volume at RUNTIME_MOUNT, the token over standard input, never in a command line or an environment.
 * Then the pod is annotated with the id of the container in which it runs. */
#pragma once

#include "backend/store.h"
#include "common/bytes.h"
#include "controller/controller.h"
#include "k8s/client.h"
#include "k8s/config.h"

struct sender;

/* `program` is what is sent (taken). The others are borrowed; `client` tells whether a pod is still the one
 * meant. */
struct sender *sender_start(struct k8s_config *config, struct k8s_client *client, struct store *store,
                            struct buffer *program, struct error *err);
/* What controller_start() is given. */
struct runtime_bringer sender_bringer(struct sender *s);
void sender_stop(struct sender *s); /* after the controller; what is under way is cut */
void sender_metrics(struct sender *s, struct buffer *out);

/* The script that the container's shell runs: arguments are the directory, the program's size and the
 * address to listen on; standard input is the token, a newline and the program. Exit status 0: it listens. */
extern const char sender_script[];
