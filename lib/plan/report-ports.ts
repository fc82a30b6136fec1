/**
 * The ports a gate listens on where nothing is refused by name (`network.report`, `agentjail learn`). Data.
 * In `namespace` isolation a port without a listener is refused by the kernel, unseen; the jail's
 * gate may have 1,024. Ports of other programs are recorded as refused, and can be added by hand.
 * From the IANA service name registry: what clients connect to. 53 is the DNS filter's; 853 (DNS over
 * TLS) would lead around it.
 */
import type { PortRange } from '../policy/types.js'

const wellKnown: readonly PortRange[] = [
  { first: 1, last: 52 },
  { first: 54, last: 700 },
]

const higher: readonly number[] = [
  706, 749, 808, 873, 902, 953, 989, 990, 992, 993, 994, 995, 1080, 1194, 1433, 1434, 1521, 1723,
  1883, 2049, 2082, 2083, 2086, 2087, 2095, 2096, 2181, 2222, 2375, 2376, 2377, 2379, 2380, 2525,
  3000, 3001, 3128, 3260, 3306, 3333, 3389, 3478, 3690, 4000, 4222, 4317, 4318, 4369, 4433, 4443,
  4444, 5000, 5001, 5044, 5060, 5061, 5190, 5222, 5223, 5228, 5229, 5230, 5269, 5349, 5432, 5433,
  5601, 5671, 5672, 5900, 5984, 5985, 5986, 6379, 6380, 6432, 6443, 6514, 6660, 6661, 6662, 6663,
  6664, 6665, 6666, 6667, 6668, 6669, 6697, 7000, 7001, 7077, 7473, 7474, 7687, 8000, 8001, 8008,
  8009, 8010, 8025, 8042, 8080, 8081, 8082, 8083, 8084, 8085, 8086, 8087, 8088, 8089, 8090, 8091,
  8123, 8140, 8200, 8333, 8443, 8444, 8448, 8500, 8529, 8545, 8546, 8765, 8834, 8883, 8888, 8889,
  9000, 9001, 9042, 9090, 9091, 9092, 9093, 9094, 9100, 9160, 9200, 9243, 9300, 9333, 9411, 9418,
  9443, 9999, 10000, 10250, 11211, 11371, 11434, 15672, 16379, 18080, 19302, 19999, 25565, 26257,
  27017, 27018, 27019, 28015, 30303, 32400, 33060, 50000, 50051, 61613, 61614, 61616,
]

export const reportPorts: readonly PortRange[] = [
  ...wellKnown,
  ...higher.map((port) => ({ first: port, last: port })),
]
