package segment

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
)

// bench returns the envelope of one of 1,000 sensors' readings.
func bench(i int) []byte {
	web, at := fmt.Sprint("web-", i%1000), 1_700_000_000_000+i*7
	body := fmt.Sprintf(`{"v":1,"kid":"melb/sensor/%s/1","ts":%d,"nonce":"18bcfe56800-%d","topic":"melb/bank_server/metrics/network/%s","payload":{"timestamp":%d.%03d,"server":"%s","interval_seconds":5,"active_tcp_connections":%d,"syn_packet_count":%d,"syn_method":"nftables","listen_drops":0,"listen_overflows":0,"syncookies_sent":0,"half_open":%d}`,
		web, at, i/1000+1, web, at/1000, at%1000, web, 900+i*7919%400, 100+i*104729%90, i*31%9)
	mac := hmac.New(sha256.New, []byte(web))
	io.WriteString(mac, body)
	return []byte(body + `,"mac":"` + base64.RawURLEncoding.EncodeToString(mac.Sum(nil)) + `"}`)
}
