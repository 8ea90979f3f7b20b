// LD_PRELOAD: with PEERS_NODELAY every connect() sets TCP_NODELAY; with PEERS_ALLOCATIONS the number of allocations is
// written to standard error at the end.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t),
    *__libc_memalign(size_t, size_t);
static atomic_long allocations;

void *malloc(size_t size) { allocations++; return __libc_malloc(size); }
void *calloc(size_t n, size_t size) { allocations++; return __libc_calloc(n, size); }
void *realloc(void *old, size_t size) { allocations++; return __libc_realloc(old, size); }
void *aligned_alloc(size_t alignment, size_t size) { allocations++; return __libc_memalign(alignment, size); }
int posix_memalign(void **out, size_t alignment, size_t size) {
  allocations++;
  *out = __libc_memalign(alignment, size);
  return *out ? 0 : 12;
}

int connect(int fd, const struct sockaddr *address, socklen_t length) {
  static int (*real)(int, const struct sockaddr *, socklen_t);
  if (!real) real = dlsym(RTLD_NEXT, "connect");
  int one = 1;
  if (getenv("PEERS_NODELAY") && (address->sa_family == AF_INET || address->sa_family == AF_INET6))
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  return real(fd, address, length);
}

__attribute__((destructor)) static void end(void) {
  char text[64];
  if (getenv("PEERS_ALLOCATIONS"))
    write(2, text, snprintf(text, sizeof text, "allocations: %ld\n", (long)allocations));
}
