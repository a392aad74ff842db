#include "vd_cmd.h"

#include <signal.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN); /* a peer or a pipe that closes is an error to report, not a death */
    return vd_cli_run(vd_cmd_list, argc, argv, stdout, stderr);
}
