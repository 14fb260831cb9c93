/* swarm: many WebSocket viewers in one process: swarm PORT VIEWERS CHANNELS path|message|after
 *
 * They are spread over CHANNELS channels, watched-0 and so on, which each names by its path (/sub/watched-0), in a first message
 * that is sent with the request, or in one that is sent after the answer. Prints "ready" when all are subscribed. Then it
 * obeys the lines on its standard input:
 *
 *   NUMBER  waits until each viewer has had so many more messages, and prints "done" and how many microseconds they were
 *           under way: the median, the 99th percentile and the most
 *   text    sends a short text from each viewer, and prints "done"
 *   hold    keeps the answers to pings; prints "pinging" at the first ping, and "pinged" when each viewer has had one
 *   pong    sends the answers that were kept, and prints "done"
 *   close   lets the server close the viewers; prints "done" and how many ended without a close frame when all are gone
 *
 * A message says when it was sent as @NANOSECONDS@ of CLOCK_MONOTONIC. Pings are answered; they are expected to be empty.
 */
#include "viewer.h"
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>

enum { AT_ONCE = 64 }; /* handshakes */

struct viewer {
    int socket;
    unsigned head_length;     /* of a frame that is partly read */
    unsigned char head[4];
    size_t body;              /* bytes of the frame still to come */
    int stamping;             /* whether the next digits are a time */
    long stamp;
    int owes;                 /* whether an answer to a ping is kept */
    int closed;               /* whether a close frame has come */
};
static int viewers, holding, closing;
static int owing, gone, cut;  /* numbers of viewers: with an answer that is kept; gone; of these, without a close frame */

/* Looks for a time in a piece of a message. */
static void look(struct viewer *viewer, const unsigned char *bytes, size_t length, long now) {
    for (size_t i = 0; i < length; i++) {
        if (bytes[i] == '@' && (viewer->stamping = !viewer->stamping)) {
            viewer->stamp = 0;
        } else if (bytes[i] == '@') {
            add_lag(now - viewer->stamp);
        } else if (viewer->stamping) {
            viewer->stamp = viewer->stamp * 10 + bytes[i] - '0';
        }
    }
}

static void say(const char *what) {
    puts(what);
    fflush(stdout);
}

/* Sends a short frame of one kind, with a mask that changes nothing. */
static void send_frame(struct viewer *viewer, int kind, const char *text) {
    char frame[64] = {kind, 0x80 | strlen(text)};
    ssize_t length = 6 + sprintf(frame + 6, "%s", text);
    check(send(viewer->socket, frame, length, MSG_NOSIGNAL) == length || closing, "send");
}

static void pinged(struct viewer *viewer) {
    if (!holding) {
        send_frame(viewer, 0x8a, "");
    } else if (!viewer->owes) {
        viewer->owes = 1;
        if (++owing == 1) say("pinging");
        if (owing == viewers) say("pinged");
    }
}

/* Returns how many texts ended in these bytes. */
static long take(struct viewer *viewer, const unsigned char *bytes, size_t length, long now) {
    long texts = 0;
    for (size_t at = 0; at < length;) {
        if (viewer->body == 0) {
            viewer->head[viewer->head_length++] = bytes[at++];
            if (viewer->head_length < 2 || (viewer->head[1] == 126 && viewer->head_length < 4)) continue;
            viewer->body = viewer->head[1] == 126 ? viewer->head[2] << 8 | viewer->head[3] : viewer->head[1];
        }
        size_t here = viewer->body < length - at ? viewer->body : length - at;
        if (viewer->head[0] == 0x81) look(viewer, bytes + at, here, now);
        viewer->body -= here;
        at += here;
        if (viewer->body > 0) continue;
        viewer->head_length = 0;
        texts += viewer->head[0] == 0x81;
        if (viewer->head[0] == 0x89) pinged(viewer);
        if (viewer->head[0] != 0x88) continue;
        check(closing, "closed by the server");
        viewer->closed = 1;
        send_frame(viewer, 0x88, "\x03\xe8");
    }
    return texts;
}

/* Obeys a line; returns how many messages it asks each viewer to wait for. */
static long obey(const char *line, struct viewer *all) {
    holding = !strncmp(line, "hold", 4);
    closing = !strncmp(line, "close", 5);
    int texts = !strncmp(line, "text", 4), pongs = !strncmp(line, "pong", 4);
    for (struct viewer *viewer = all; viewer < all + viewers; viewer++) {
        if (texts) send_frame(viewer, 0x81, "here");
        if (pongs && viewer->owes) send_frame(viewer, 0x8a, "");
        if (pongs) viewer->owes = owing = 0;
    }
    if (texts || pongs) say("done");
    return atol(line);
}

int main(int argc, char **argv) {
    if (argc != 5 || atoi(argv[3]) < 1) {
        fprintf(stderr, "usage: swarm PORT VIEWERS CHANNELS path|message|after\n");
        return 64;
    }
    int port = atoi(argv[1]), channels = atoi(argv[3]), poll = epoll_create1(0);
    viewers = atoi(argv[2]);
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);

    struct viewer *all = calloc(viewers, sizeof *all);
    for (int i = 0; i < viewers + AT_ONCE; i++) {
        char channel[32];
        if (i >= AT_ONCE) {
            struct viewer *viewer = &all[i - AT_ONCE];
            await_upgrade(viewer->socket);
            snprintf(channel, sizeof channel, "watched-%d", (i - AT_ONCE) % channels);
            if (!strcmp(argv[4], "after")) send_frame(viewer, 0x81, channel);
        }
        if (i >= viewers) continue;
        snprintf(channel, sizeof channel, "watched-%d", i % channels);
        /* Every 10,000 viewers come from another address, since one has not ports enough. */
        all[i].socket = subscribe(port, i / 10000, channel, !strcmp(argv[4], "message"));
        epoll_ctl(poll, EPOLL_CTL_ADD, all[i].socket, &(struct epoll_event){.events = EPOLLIN, .data.ptr = &all[i]});
    }
    epoll_ctl(poll, EPOLL_CTL_ADD, STDIN_FILENO, &(struct epoll_event){.events = EPOLLIN, .data.ptr = NULL});
    say("ready");

    long wanted = 0, got = 0;
    for (;;) {
        struct epoll_event events[1024];
        static unsigned char bytes[1 << 18];
        int n = epoll_wait(poll, events, 1024, -1);
        for (int i = 0; i < n; i++) {
            struct viewer *viewer = events[i].data.ptr;
            if (viewer == NULL) {
                ssize_t length = read(STDIN_FILENO, bytes, 32);
                if (length <= 0) return 0;
                bytes[length] = 0;
                wanted += obey((char *)bytes, all) * viewers;
                continue;
            }
            ssize_t length = read(viewer->socket, bytes, sizeof bytes);
            if (length <= 0) {
                check(closing, "read");
                close(viewer->socket);
                cut += !viewer->closed;
                if (++gone == viewers) printf("done %d\n", cut), fflush(stdout);
                continue;
            }
            struct timespec now;
            clock_gettime(CLOCK_MONOTONIC, &now);
            got += take(viewer, bytes, length, now.tv_sec * 1000000000 + now.tv_nsec);
        }
        if (wanted > 0 && got >= wanted) {
            sort_lags();
            printf("done %u %u %u\n", lag(0.5), lag(0.99), lag(1));
            fflush(stdout);
            wanted = got = lag_count = 0;
        }
    }
}
