/* probe: how long the messages of a channel with one viewer take: probe VIEWERS-PORT BROKERS-PORT MICROSECONDS
 *
 * Is the broker and the viewer of a channel of its own, in one thread, with a message every so many MICROSECONDS, however late the
 * others are. Runs before all other programs where it may (SCHED_FIFO), so that it is not late itself. Prints "ready" and
 * how it runs. Then it obeys the letters on its standard input:
 *
 *   +  counts the messages that are sent from now on
 *   -  counts no more of those that are sent from now on
 *   ?  waits for all messages that were sent, prints how many were counted and how many microseconds they were under way (the
 *      median, the 99th and the 99.9th percentile, the most), then the longest time without a message, and begins again
 */
#include "viewer.h"
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <time.h>

enum { ROOM = 1 << 16 }; /* messages under way */

static struct {
    long at;
    int counts;
} under_way[ROOM];
static long sent, received;
static long longest; /* time without a message, in microseconds */

static long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000 + time.tv_nsec;
}

/* Connects as a ROUTER (ZMTP 3.0). */
static int link_up(int port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port)};
    int s = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    check(s >= 0 && !connect(s, (struct sockaddr *)&to, sizeof to), "connect");
    setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    char greeting[64] = "\xff\0\0\0\0\0\0\0\0\x7f\3\0NULL";
    static const char ready[] = "\4\x29\5READY\x0bSocket-Type\0\0\0\6ROUTER\x08Identity\0\0\0";
    check(write(s, greeting, sizeof greeting) == sizeof greeting, "greeting");
    check(recv(s, greeting, sizeof greeting, MSG_WAITALL) == sizeof greeting, "greeting");
    check(write(s, ready, sizeof ready) == sizeof ready, "READY"); /* its last byte is the one behind the text */
    unsigned char head[2], body[255];
    check(recv(s, head, 2, MSG_WAITALL) == 2 && recv(s, body, head[1], MSG_WAITALL) == head[1], "READY");
    return s;
}

/* Notes the messages that these bytes begin. All text is ASCII, so that only the head of a text has this byte. */
static void take(const unsigned char *bytes, ssize_t length) {
    static long last;
    long time = now();
    for (ssize_t i = 0; i < length; i++) {
        check(bytes[i] != 0x88, "closed by the server");
        if (bytes[i] != 0x81) continue;
        long at = under_way[received % ROOM].at, gap = (time - last) / 1000;
        if (under_way[received++ % ROOM].counts) {
            add_lag(time - at);
            if (last && gap > longest) longest = gap;
        }
        last = time;
    }
}

int main(int argc, char **argv) {
    if (argc != 4 || atol(argv[3]) < 1) {
        fprintf(stderr, "usage: probe VIEWERS-PORT BROKERS-PORT MICROSECONDS\n");
        return 64;
    }
    int first = !sched_setscheduler(0, SCHED_FIFO, &(struct sched_param){.sched_priority = 1});
    int viewer = subscribe(atoi(argv[1]), 0, "beside", 1), broker = link_up(atoi(argv[2]));
    await_upgrade(viewer);
    long pace = atol(argv[3]) * 1000;
    struct timespec step = {pace / 1000000000, pace % 1000000000};
    int timer = timerfd_create(CLOCK_MONOTONIC, 0);
    check(timer >= 0 && !timerfd_settime(timer, 0, &(struct itimerspec){step, step}, NULL), "timer");
    printf("ready %s\n", first ? "SCHED_FIFO" : "as any other program");
    fflush(stdout);

    int counting = 0;
    long asked = -1; /* up to which message a report is to wait */
    for (;;) {
        struct pollfd polled[] = {{viewer, POLLIN, 0}, {timer, POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
        static unsigned char bytes[1 << 16];
        check(poll(polled, 3, -1) > 0, "poll");
        if (polled[0].revents) {
            ssize_t length = read(viewer, bytes, sizeof bytes);
            check(length > 0, "read");
            take(bytes, length);
        }
        if (polled[1].revents) {
            static const char message[] = "\1\6beside\1\4TASK\1\4task\0\tCOMPLETED";
            check(read(timer, bytes, 8) == 8 && sent - received < ROOM, "timer");
            under_way[sent % ROOM].counts = counting;
            under_way[sent++ % ROOM].at = now();
            check(write(broker, message, sizeof message - 1) == sizeof message - 1, "send");
        }
        if (polled[2].revents) {
            ssize_t length = read(STDIN_FILENO, bytes, sizeof bytes);
            if (length <= 0) return 0;
            for (ssize_t i = 0; i < length; i++) {
                if (bytes[i] == '+' || bytes[i] == '-') counting = bytes[i] == '+';
                if (bytes[i] == '?') asked = sent;
            }
        }
        if (asked >= 0 && received >= asked) {
            sort_lags();
            printf("%zu %u %u %u %u %ld\n", lag_count, lag(0.5), lag(0.99), lag(0.999), lag(1), longest);
            fflush(stdout);
            asked = -1;
            lag_count = longest = 0;
        }
    }
}
