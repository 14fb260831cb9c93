/* swarm: many WebSocket viewers in one process: swarm PORT VIEWERS CHANNEL
 *
 * All of them watch CHANNEL. Prints "ready" when all are subscribed. Then, for every line on standard input (a number
 * of messages), waits until each viewer has had so many more, and prints "done". Answers pings, which
 * are expected to be empty.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

struct viewer {
    int socket;
    unsigned head_length;     /* of a frame that is partly read */
    unsigned char head[4];
    size_t body;              /* bytes of the frame still to come */
};

static void check(int ok, const char *what) {
    if (!ok) {
        perror(what);
        exit(1);
    }
}

static int subscribe(int port, int i, const char *channel) {
    /* Every 20,000 viewers come from another loopback address, since one has not ports enough. */
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK + i / 20000)};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port)};
    int s = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    setsockopt(s, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    check(s >= 0 && !bind(s, (struct sockaddr *)&from, sizeof from) && !connect(s, (struct sockaddr *)&to, sizeof to), "connect");
    char text[512];
    int length = snprintf(text, sizeof text,
        "GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n", port);
    check(write(s, text, length) == length, "handshake");
    for (length = 0; length < 4 || memcmp(text + length - 4, "\r\n\r\n", 4); length++)
        check(length < (int)sizeof text && read(s, text + length, 1) == 1, "handshake");
    check(!memcmp(text, "HTTP/1.1 101", 12), "handshake");

    length = strlen(channel);
    text[0] = 0x81;
    text[1] = 0x80 | length;
    memset(text + 2, 0, 4); /* a mask that changes nothing */
    memcpy(text + 6, channel, length);
    check(write(s, text, 6 + length) == 6 + length, "subscribe");
    return s;
}

/* Returns how many texts ended in these bytes. */
static long take(struct viewer *viewer, const unsigned char *bytes, size_t length) {
    long texts = 0;
    for (size_t at = 0; at < length;) {
        if (viewer->body == 0) {
            viewer->head[viewer->head_length++] = bytes[at++];
            if (viewer->head_length < 2 || (viewer->head[1] == 126 && viewer->head_length < 4)) continue;
            viewer->body = viewer->head[1] == 126 ? viewer->head[2] << 8 | viewer->head[3] : viewer->head[1];
        }
        size_t here = viewer->body < length - at ? viewer->body : length - at;
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
    if (argc != 4 || strlen(argv[3]) > 125) {
        fprintf(stderr, "usage: swarm PORT VIEWERS CHANNEL\n");
        return 64;
    }
    int port = atoi(argv[1]), viewers = atoi(argv[2]), poll = epoll_create1(0);
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);

    struct viewer *all = calloc(viewers, sizeof *all);
    for (int i = 0; i < viewers; i++) {
        all[i].socket = subscribe(port, i, argv[3]);
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
            got += take(viewer, bytes, length);
        }
        if (wanted > 0 && got >= wanted) {
            puts("done");
            fflush(stdout);
            wanted = got = 0;
        }
    }
}
