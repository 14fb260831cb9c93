/* sender: a broker that sends as fast as libzmq goes: sender PORT MESSAGES CHANNELS
 *
 * Connects, prints "ready", waits for a line, then sends MESSAGES task messages spread over CHANNELS channels and one
 * FINISHED on the channel "marker".
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

static void check(int result, const char *what) {
    if (result < 0) {
        fprintf(stderr, "sender: %s: %s\n", what, zmq_strerror(zmq_errno()));
        _Exit(1);
    }
}

static void send_part(void *socket, const char *text, int flags) {
    check(zmq_send(socket, text, strlen(text), flags), "send");
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: sender PORT MESSAGES CHANNELS\n");
        return 64;
    }
    long messages = atol(argv[2]), channels = atol(argv[3]);
    char text[64];
    void *context = zmq_ctx_new(), *socket = zmq_socket(context, ZMQ_ROUTER);
    int one = 1;
    check(zmq_setsockopt(socket, ZMQ_ROUTER_MANDATORY, &one, sizeof one), "mandatory");
    snprintf(text, sizeof text, "tcp://127.0.0.1:%s", argv[1]);
    check(zmq_connect(socket, text), "connect");
    while (zmq_send(socket, "recodex-monitor", 15, ZMQ_SNDMORE) < 0) { /* not connected yet */
        if (zmq_errno() != EHOSTUNREACH) check(-1, "connect");
        usleep(1000);
    }
    send_part(socket, "warm", ZMQ_SNDMORE);
    send_part(socket, "STARTED", 0);
    puts("ready");
    fflush(stdout);
    getchar();

    for (long i = 0; i < messages; i++) {
        send_part(socket, "recodex-monitor", ZMQ_SNDMORE);
        snprintf(text, sizeof text, "channel-%ld", i % channels);
        send_part(socket, text, ZMQ_SNDMORE);
        send_part(socket, "TASK", ZMQ_SNDMORE);
        snprintf(text, sizeof text, "task-%ld", i / channels);
        send_part(socket, text, ZMQ_SNDMORE);
        send_part(socket, "COMPLETED", 0);
    }
    send_part(socket, "recodex-monitor", ZMQ_SNDMORE);
    send_part(socket, "marker", ZMQ_SNDMORE);
    send_part(socket, "FINISHED", 0);
    zmq_close(socket);
    zmq_ctx_term(context); /* returns when everything is sent */
    return 0;
}
