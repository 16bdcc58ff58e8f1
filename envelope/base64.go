package envelope

import (
	"crypto/sha256"
	"encoding/binary"
)

// encodeMAC writes sum as 43 characters of unpadded base64url (RFC 4648,
// section 5). It is the standard library's result without its table, eight
// characters at a time: neither time nor caches tell anything of a MAC that
// is still to be compared.
func encodeMAC(dst *[macLength]byte, sum *[sha256.Size]byte) {
	word := func(i int) uint64 { return uint64(binary.BigEndian.Uint32(sum[4*i:])) }
	for i := range 2 { // three words are sixteen characters
		middle := word(3*i + 1)
		binary.BigEndian.PutUint64(dst[16*i:], characters(spread(word(3*i)<<16|middle>>16)))
		binary.BigEndian.PutUint64(dst[16*i+8:], characters(spread(middle&0xffff<<32|word(3*i+2))))
	}
	last := word(7)
	binary.BigEndian.PutUint64(dst[32:], characters(spread(word(6)<<16|last>>16)))
	tail := characters(spread(last & 0xffff << 32)) // three characters; the last of them ends in two zero bits
	dst[40], dst[41], dst[42] = byte(tail>>56), byte(tail>>48), byte(tail>>40)
}

// spread moves 48 bits into the lower six of each of eight bytes, in order.
func spread(x uint64) uint64 {
	x = x&0xffffff000000<<8 | x&0xffffff
	x = x&0x00fff00000fff000<<4 | x&0x00000fff00000fff
	return x&0x0fc00fc00fc00fc0<<2 | x&0x003f003f003f003f
}

// characters maps eight values below 64, one in each byte, to their
// characters. No step carries from one byte into the next.
func characters(x uint64) uint64 {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	lower := (x + ones*(128-26)) & highs >> 7 // 1 in each byte that is 26 or more
	digit := (x + ones*(128-52)) & highs >> 7
	dash := (x + ones*(128-62)) & highs >> 7
	line := (x + ones*(128-63)) & highs >> 7
	return x + ones*'A' + lower*('a'-26-'A') - digit*('a'-26-('0'-52)) - dash*('0'-52-('-'-62)) + line*('_'-63-('-'-62))
}

// base64Values are the values of the alphabet's characters, 64 for all others.
var base64Values = func() (values [256]byte) {
	for i := range values {
		values[i] = 64
	}
	for i, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") {
		values[c] = byte(i)
	}
	return values
}()

// base64url reports whether b is unpadded base64url in its one canonical
// spelling: the bits after the last whole byte are zero. Its time depends on b,
// which anybody may have sent.
func base64url(b []byte) bool {
	var last, all byte
	for _, c := range b {
		last = base64Values[c]
		all |= last
	}
	if all > 63 {
		return false
	}
	switch len(b) % 4 {
	case 0:
		return true
	case 2:
		return last&0xf == 0
	case 3:
		return last&0x3 == 0
	default:
		return false
	}
}
