/* The handlers that the route table names, by file. Each answers its request exactly once,
 * as router/request.h says. */
#pragma once

#include "router/request.h"

/* health.c */
void health_live(struct request *r);  /* /healthz */
void health_ready(struct request *r); /* /readyz */
void health_get(struct request *r);   /* /health, /api/v1/health */
void metrics_get(struct request *r);
/* Whether the route is one of those that --probe-addr serves. */
bool health_route(const struct route *route);
void openapi_get(struct request *r);

/* sandboxes.c */
void sandboxes_list(struct request *r);
void sandboxes_create(struct request *r);
void sandbox_get(struct request *r);
void sandbox_patch(struct request *r);
/* lifecycle.c */
void sandbox_stop(struct request *r);
void sandbox_resume(struct request *r);
void sandbox_delete(struct request *r);
/* bulk.c */
void bulk_create(struct request *r);
void bulk_action(struct request *r);

/* clone.c */
void sandbox_clone(struct request *r);
/* backups.c */
void backups_list(struct request *r);
void backups_create(struct request *r);
void backup_restore(struct request *r);
void backup_delete(struct request *r);

/* exec.c */
void exec_create(struct request *r);
void exec_get(struct request *r);
void exec_delete(struct request *r);

/* terminal.c */
void terminal_open(struct request *r);

/* files.c */
void files_list(struct request *r);
void files_read(struct request *r);
void files_write(struct request *r);
void files_remove(struct request *r);
void files_stat(struct request *r);
void files_mkdir(struct request *r);
/* archive.c */
void archive_read(struct request *r);
void archive_write(struct request *r);

/* ports.c */
void ports_list(struct request *r);
void ports_create(struct request *r);
void ports_delete(struct request *r);
/* preview_admit.c, preview.c */
bool preview_precheck(struct request *r, struct error *err);
void preview_proxy(struct request *r);

/* share_api.c */
void share_get(struct request *r);
void share_grant(struct request *r);
void share_revoke(struct request *r);
/* share_link_api.c */
void share_links_list(struct request *r);
void share_links_create(struct request *r);
void share_links_delete(struct request *r);
void share_links_redeem(struct request *r);
/* audit_api.c */
void audit_events(struct request *r);
/* governance_api.c */
void policies_list(struct request *r);
void policies_put(struct request *r);
void policy_get(struct request *r);
void policy_put(struct request *r);
void policy_delete(struct request *r);
void policy_effective(struct request *r);

/* warmpool.c */
void warmpool_status(struct request *r);
void warmpool_configure(struct request *r);

/* templates_api.c */
void templates_list(struct request *r);
void templates_create(struct request *r);
void template_get(struct request *r);
void template_put(struct request *r);
void template_delete(struct request *r);

/* admin.c */
void admin_sandboxes(struct request *r);
void admin_sharing(struct request *r);

/* preferences.c */
void preferences_get(struct request *r);
void preferences_put(struct request *r);
void preferences_patch(struct request *r);

/* user.c */
void user_me(struct request *r);
void keys_list(struct request *r);
void admin_keys(struct request *r);
void keys_create(struct request *r);
void keys_delete(struct request *r);
