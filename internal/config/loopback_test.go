package config_test

import (
	"testing"

	"levee/internal/config"
)

func TestLoopback(t *testing.T) {
	for listen, want := range map[string]bool{
		"127.0.0.1:8090": true, "127.9.9.9:1": true, "[::1]:8090": true, "127.0.0.1:0": true,
		"": false, "127.0.0.1": false, "localhost:8090": false, "0.0.0.0:8090": false, "[::]:8090": false, "10.0.0.1:8090": false,
		"[::ffff:127.0.0.1]:8090": false, "[::1%lo]:8090": false, ":8090": false, "127.0.0.1:99999": false,
	} {
		if address, err := config.Loopback(listen); (err == nil) != want || want && address.String() != listen {
			t.Errorf("%q: %v, %v", listen, address, err)
		}
	}
}
