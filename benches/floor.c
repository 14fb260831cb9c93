/* floor: the least that one write per message and viewer can cost: floor VIEWERS TEXT
 *
 * Prints the port it listens on, answers VIEWERS WebSocket handshakes, then, for every byte on standard input, writes
 * one ready frame with TEXT to each viewer, the 16 digits behind its @ being the time. Ends with its input.
 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static void check(int ok, const char *what) {
    if (!ok) {
        perror(what);
        exit(1);
    }
}

int main(int argc, char **argv) {
    char *stamp = argc == 3 ? strchr(argv[2], '@') : NULL;
    if (stamp == NULL || strlen(stamp) < 17 || strlen(argv[2]) > 65535) {
        fprintf(stderr, "usage: floor VIEWERS TEXT\n");
        return 64;
    }
    int viewers = atoi(argv[1]), length = strlen(argv[2]), one = 1;
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);

    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    check(!bind(listener, (struct sockaddr *)&address, size) && !listen(listener, 4096), "listen");
    getsockname(listener, (struct sockaddr *)&address, &size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);

    int *sockets = calloc(viewers, sizeof *sockets);
    for (int i = 0; i < viewers; i++) {
        sockets[i] = accept(listener, NULL, NULL);
        check(sockets[i] >= 0, "accept");
        setsockopt(sockets[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        char tail[4] = "";
        while (memcmp(tail, "\r\n\r\n", 4)) {
            memmove(tail, tail + 1, 3);
            check(read(sockets[i], tail + 3, 1) == 1, "handshake");
        }
        static const char answer[] = "HTTP/1.1 101 Switching Protocols\r\n\r\n";
        check(write(sockets[i], answer, sizeof answer - 1) > 0, "handshake");
    }

    unsigned char *frame = malloc(length + 4), *end = frame;
    *end++ = 0x81; /* a whole text */
    if (length < 126) {
        *end++ = length;
    } else {
        *end++ = 126;
        *end++ = length >> 8;
        *end++ = length;
    }
    memcpy(end, argv[2], length);
    unsigned char *digits = end + (stamp + 1 - argv[2]);
    end += length;

    char due[4096];
    for (ssize_t messages; (messages = read(STDIN_FILENO, due, sizeof due)) > 0;)
        for (; messages > 0; messages--) {
            struct timespec now;
            clock_gettime(CLOCK_MONOTONIC, &now);
            char text[32];
            snprintf(text, sizeof text, "%016lld", now.tv_sec * 1000000000LL + now.tv_nsec);
            memcpy(digits, text, 16);
            for (int i = 0; i < viewers; i++) /* the sockets block, so a write is whole */
                check(send(sockets[i], frame, end - frame, MSG_NOSIGNAL) == end - frame, "send");
        }
    return 0;
}
