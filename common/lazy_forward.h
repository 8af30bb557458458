/* For the files common/lazy_NAME.c alone: definitions of a library's functions that forward to it. The
 * library's own header, included first, declares them, so the compiler checks each definition. They are
 * hidden, so that the library itself and those it brings never meet them. */
#pragma once

#include "common/lazy.h"

#include <stdatomic.h>
#include <stdint.h>

/* The function, kept in *found. */
void *lazy_find(struct lazy_library *library, void *_Atomic *found, const char *name);

/* LAZY(library, type, name, (parameters), (arguments)); LAZY_VOID is for functions that return nothing. */
#define LAZY(library, type, name, parameters, arguments)                                                     \
    LAZY_DEFINE(library, type, name, parameters, return function arguments)
#define LAZY_VOID(library, name, parameters, arguments)                                                      \
    LAZY_DEFINE(library, void, name, parameters, function arguments)

#define LAZY_DEFINE(library, type, name, parameters, call)                                                   \
    __attribute__((visibility("hidden"))) type name parameters {                                             \
        static void *_Atomic found;                                                                          \
        void *at = atomic_load_explicit(&found, memory_order_acquire);                                       \
        if (!at) at = lazy_find(&(library), &found, #name);                                                  \
        type(*function) parameters = (type(*) parameters)(uintptr_t)at;                                      \
        call;                                                                                                \
    }                                                                                                        \
    struct lazy_library /* takes the semicolon */
