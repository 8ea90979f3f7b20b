/* measure PROGRAM ARGUMENT...   runs a program and prints its CPU time in microseconds and its peak memory in kB on descriptor 3.
 *
 * A process inherits the peak of the one that starts it, so this one must be tiny: build it static, with musl. */
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
  struct rusage usage;
  int status;
  pid_t child;

  if (argc < 2)
    return 127;
  child = fork();
  if (child == 0) {
    close(3);
    execv(argv[1], argv + 1);
    _exit(127);
  }
  if (child < 0 || wait4(child, &status, 0, &usage) < 0)
    return 127;
  dprintf(3, "%ld %ld\n",
          (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000L + usage.ru_utime.tv_usec + usage.ru_stime.tv_usec,
          usage.ru_maxrss);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 126;
}
