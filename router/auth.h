/* Who calls, and whether the route's rule lets them in (http-api.md 3.2 to 3.8). */
#pragma once

#include "router/request.h"

/* Fills in r->identity from X-API-Key or Authorization, or 401. */
bool auth_identify(struct request *r, struct error *err);
/* The gates that need no sandbox: scoped keys, administrators. 403. */
bool auth_permits(struct request *r, struct error *err);
/* For AUTH_SANDBOX_* rows: finds {id}, checks access (404) and phase (409), sets r->sandbox. */
bool auth_find_sandbox(struct request *r, struct error *err);
