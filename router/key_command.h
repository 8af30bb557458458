/* `agenttier-router create-key ...`: makes an API key without, or beside, a running Router. */
#pragma once

/* Returns the process's exit status: 0, 1 when it failed, 2 on wrong usage. */
int key_command_main(int argc, char **argv);
