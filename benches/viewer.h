/* viewer.h: what swarm and probe share: a viewer connects and subscribes, and the times that messages took are sorted. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void check(int ok, const char *what) {
    if (!ok) {
        perror(what);
        exit(1);
    }
}

static unsigned *lags; /* microseconds */
static size_t lag_count, lag_room;

static void add_lag(long nanoseconds) {
    if (lag_count == lag_room) lags = realloc(lags, (lag_room = 2 * lag_room + 1024) * sizeof *lags);
    lags[lag_count++] = nanoseconds / 1000;
}

static int by_size(const void *a, const void *b) {
    unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;
    return (x > y) - (x < y);
}

static void sort_lags(void) {
    qsort(lags, lag_count, sizeof *lags, by_size);
}

/* Returns the time that this share of the messages took at most. */
static unsigned lag(double share) {
    return lag_count ? lags[(size_t)(share * (lag_count - 1))] : 0;
}

/* Connects from loopback address number `from` of this process, and sends all that a viewer has to send. */
static int subscribe(int port, int from, const char *channel, int by_message) {
    unsigned address = (127u << 24) + ((unsigned)getpid() % 65536 << 8) + 1 + from;
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(address)};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port)};
    int s = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    setsockopt(s, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    check(s >= 0 && !bind(s, (struct sockaddr *)&here, sizeof here) && !connect(s, (struct sockaddr *)&to, sizeof to), "connect");
    char text[512];
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
