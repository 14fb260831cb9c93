/* receiver: what taking the messages costs with libzmq and nothing else: a ROUTER that reads whole messages and counts.
 *
 * Prints the port it listens on, then, after every message with the command FINISHED, the number of messages so far.
 */
#include <stdio.h>
#include <string.h>
#include <zmq.h>

static int check(int result, const char *what) {
    if (result < 0) {
        fprintf(stderr, "receiver: %s: %s\n", what, zmq_strerror(zmq_errno()));
        _Exit(1);
    }
    return result;
}

int main(void) {
    void *socket = zmq_socket(zmq_ctx_new(), ZMQ_ROUTER);
    check(zmq_setsockopt(socket, ZMQ_ROUTING_ID, "recodex-monitor", 15), "routing id");
    check(zmq_bind(socket, "tcp://127.0.0.1:*"), "bind");
    char endpoint[64];
    size_t length = sizeof endpoint;
    check(zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, endpoint, &length), "endpoint");
    printf("%s\n", strrchr(endpoint, ':') + 1);
    fflush(stdout);

    zmq_msg_t part;
    zmq_msg_init(&part);
    for (long messages = 1;; messages++) {
        int finished = 0, more = 1;
        for (int i = 0; more; i++) { /* the sender's identity, the channel, the command, ... */
            check(zmq_msg_recv(&part, socket, 0), "receive");
            more = zmq_msg_more(&part);
            if (i == 2) finished = zmq_msg_size(&part) == 8 && !memcmp(zmq_msg_data(&part), "FINISHED", 8);
        }
        if (finished) {
            printf("%ld\n", messages);
            fflush(stdout);
        }
    }
}
