/* swarm: many WebSocket viewers in one process: swarm PORT VIEWERS CHANNELS path|message
 *
 * They are spread over CHANNELS channels, watched-0 and so on, which each names by its path (/sub/watched-0) or in its first
 * message. Prints "ready" when all are subscribed. Then, for every line on standard input (a
 * number of messages), waits until each viewer has had so many more, and prints "done" and how many microseconds they were
 * under way: the median, the 99th percentile and the most. A message says when it was sent as @NANOSECONDS@ of
 * CLOCK_MONOTONIC. Answers pings, which are expected to be empty.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { AT_ONCE = 64 }; /* handshakes */

struct viewer {
    int socket;
    unsigned head_length;     /* of a frame that is partly read */
    unsigned char head[4];
    size_t body;              /* bytes of the frame still to come */
    int stamping;             /* whether the next digits are a time */
    long stamp;
};

static unsigned *lags;        /* microseconds */
static size_t lag_count, lag_room;

static void check(int ok, const char *what) {
    if (!ok) {
        perror(what);
        exit(1);
    }
}

static int by_size(const void *a, const void *b) {
    unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;
    return (x > y) - (x < y);
}

static unsigned lag(double share) {
    return lag_count ? lags[(size_t)(share * (lag_count - 1))] : 0;
}

/* Looks for a time in a piece of a message. */
static void look(struct viewer *viewer, const unsigned char *bytes, size_t length, long now) {
    for (size_t i = 0; i < length; i++) {
        if (bytes[i] == '@' && (viewer->stamping = !viewer->stamping)) {
            viewer->stamp = 0;
        } else if (bytes[i] == '@') {
            if (lag_count == lag_room) lags = realloc(lags, (lag_room = 2 * lag_room + 1024) * sizeof *lags);
            lags[lag_count++] = (now - viewer->stamp) / 1000;
        } else if (viewer->stamping) {
            viewer->stamp = viewer->stamp * 10 + bytes[i] - '0';
        }
    }
}

static int subscribe(int port, int i, int channels, int by_message) {
    /* Every 10,000 viewers come from another loopback address, since one has not ports enough. */
    unsigned address = (127u << 24) + ((unsigned)getpid() % 65536 << 8) + 1 + i / 10000;
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(address)};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port)};
    int s = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    setsockopt(s, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    check(s >= 0 && !bind(s, (struct sockaddr *)&from, sizeof from) && !connect(s, (struct sockaddr *)&to, sizeof to), "connect");
    char text[512], channel[32];
    snprintf(channel, sizeof channel, "watched-%d", i % channels);
    int length = snprintf(text, sizeof text,
        "GET /sub/%s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n", channel, port);
    if (by_message) {
        text[length++] = 0x81;
        text[length++] = 0x80 | strlen(channel);
        memset(text + length, 0, 4); /* a mask that changes nothing */
        length += 4 + sprintf(text + length + 4, "%s", channel);
    }
    check(write(s, text, length) == length, "handshake");
    return s;
}

/* Reads the answer, and no byte of what may come behind it. */
static void await_upgrade(int s) {
    char text[512], *end;
    do {
        ssize_t length = recv(s, text, sizeof text - 1, MSG_PEEK);
        check(length > 0, "handshake");
        text[length] = 0;
    } while (!(end = strstr(text, "\r\n\r\n")));
    check(!memcmp(text, "HTTP/1.1 101", 12), "handshake");
    check(recv(s, text, end + 4 - text, 0) == end + 4 - text, "handshake");
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
        check(viewer->head[0] != 0x88, "closed by the server");
        if (viewer->head[0] == 0x89) check(write(viewer->socket, "\x8a\x80\0\0\0\0", 6) == 6, "pong");
    }
    return texts;
}

int main(int argc, char **argv) {
    if (argc != 5 || atoi(argv[3]) < 1) {
        fprintf(stderr, "usage: swarm PORT VIEWERS CHANNELS path|message\n");
        return 64;
    }
    int port = atoi(argv[1]), viewers = atoi(argv[2]), channels = atoi(argv[3]), poll = epoll_create1(0);
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);

    struct viewer *all = calloc(viewers, sizeof *all);
    for (int i = 0; i < viewers + AT_ONCE; i++) {
        if (i >= AT_ONCE) await_upgrade(all[i - AT_ONCE].socket);
        if (i >= viewers) continue;
        all[i].socket = subscribe(port, i, channels, !strcmp(argv[4], "message"));
        epoll_ctl(poll, EPOLL_CTL_ADD, all[i].socket, &(struct epoll_event){.events = EPOLLIN, .data.ptr = &all[i]});
    }
    epoll_ctl(poll, EPOLL_CTL_ADD, STDIN_FILENO, &(struct epoll_event){.events = EPOLLIN, .data.ptr = NULL});
    puts("ready");
    fflush(stdout);

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
                wanted += atol((char *)bytes) * viewers;
                continue;
            }
            ssize_t length = read(viewer->socket, bytes, sizeof bytes);
            check(length > 0, "read");
            struct timespec now;
            clock_gettime(CLOCK_MONOTONIC, &now);
            got += take(viewer, bytes, length, now.tv_sec * 1000000000 + now.tv_nsec);
        }
        if (wanted > 0 && got >= wanted) {
            qsort(lags, lag_count, sizeof *lags, by_size);
            printf("done %u %u %u\n", lag(0.5), lag(0.99), lag(1));
            fflush(stdout);
            wanted = got = lag_count = 0;
        }
    }
}
