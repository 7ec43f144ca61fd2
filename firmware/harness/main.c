#include "platform.h"
#include "protocol.h"

int main(void) {
  platform_start();
  protocol_run();
}
