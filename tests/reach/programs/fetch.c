/* Prints what a web server answers: fetch HOST PORT. It is compiled with musl, the C library of Alpine Linux. */

#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    static const char request[] = "GET / HTTP/1.0\r\n\r\n";
    char answer[4096];
    ssize_t size;

    if (argc != 3)
        return 2;
    if (getaddrinfo(argv[1], argv[2], &hints, &found) != 0) {
        fputs("the name does not resolve\n", stderr);
        return 3;
    }
    int sock = socket(found->ai_family, SOCK_STREAM, 0);
    if (connect(sock, found->ai_addr, found->ai_addrlen) != 0) {
        perror("connect");
        return 4;
    }
    if (write(sock, request, strlen(request)) < 0)
        return 5;
    while ((size = read(sock, answer, sizeof answer)) > 0)
        fwrite(answer, 1, (size_t)size, stdout);
    return 0;
}
