// mesh-peer: a SPIFFE workload on another implementation than exeat's. It takes its SVID from the Workload API (SPIFFE_ENDPOINT_SOCKET).
//
//	mesh-peer ADDRESS CALLER            an upstream: demands this SPIFFE ID of its callers, and answers with the serial number of the
//	                                    certificate that the caller showed
//	mesh-peer call URL SERVER RATE      a caller: demands this SPIFFE ID of the server, asks RATE times a second until it is told to end,
//	                                    over HTTP/1.1 and HTTP/2, and says once in a while how it went
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

func main() {
	calls := len(os.Args) == 5 && os.Args[1] == "call"
	if len(os.Args) != 3 && !calls {
		log.Fatal("mesh-peer ADDRESS SPIFFE-ID-OF-CALLERS, or mesh-peer call URL SPIFFE-ID-OF-SERVER RATE")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	source, err := workloadapi.NewX509Source(ctx)
	if err != nil {
		log.Fatalf("no X509Source: %v", err)
	}
	if calls {
		rate, err := strconv.Atoi(os.Args[4])
		if err != nil {
			log.Fatal(err)
		}
		call(source, os.Args[2], spiffeid.RequireFromString(os.Args[3]), rate)
		return
	}
	serve(source, os.Args[1], spiffeid.RequireFromString(os.Args[2]))
}

func serve(source *workloadapi.X509Source, address string, caller spiffeid.ID) {
	config := tlsconfig.MTLSServerConfig(source, source, tlsconfig.AuthorizeID(caller))
	config.NextProtos = []string{"h2", "http/1.1"}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		leaf := r.TLS.PeerCertificates[0]
		fmt.Fprintf(w, "%x %d", leaf.SerialNumber, leaf.NotAfter.Unix())
	})
	server := &http.Server{Addr: address, Handler: handler, TLSConfig: config, ReadHeaderTimeout: 10 * time.Second}
	log.Printf("listening on %s", address)
	log.Fatal(server.ListenAndServeTLS("", ""))
}

const callers = 4

// tally is what was seen until now.
type tally struct {
	sync.Mutex
	sent, failed int
	last         string
	own, server  map[string]bool
}

func call(source *workloadapi.X509Source, url string, server spiffeid.ID, rate int) {
	seen := &tally{own: map[string]bool{}, server: map[string]bool{}}
	var transports []*http.Transport
	began := time.Now()
	for at := range callers {
		transport := &http.Transport{
			TLSClientConfig:   tlsconfig.MTLSClientConfig(source, source, tlsconfig.AuthorizeID(server)),
			ForceAttemptHTTP2: at%2 == 0,
		}
		transports = append(transports, transport)
		go func() {
			client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
			for own := 0; ; own++ {
				// Paced by the clock and not by the answers: who falls behind catches up.
				time.Sleep(time.Until(began.Add(time.Duration(own) * callers * time.Second / time.Duration(rate))))
				seen.take(ask(client, url))
			}
		}()
	}
	// A certificate belongs to a connection: a caller whose certificate has changed opens another.
	go func() {
		for range source.Updated() {
			if svid, err := source.GetX509SVID(); err == nil {
				seen.Lock()
				seen.own[svid.Certificates[0].SerialNumber.String()] = true
				seen.Unlock()
			}
			for _, transport := range transports {
				transport.CloseIdleConnections()
			}
		}
	}()
	for range time.Tick(100 * time.Millisecond) {
		seen.Lock()
		fmt.Printf("sent=%d rate=%.0f failed=%d own=%d server=%d last=%q\n", seen.sent, float64(seen.sent)/time.Since(began).Seconds(),
			seen.failed, len(seen.own), len(seen.server), seen.last)
		seen.Unlock()
	}
}

func ask(client *http.Client, url string) (string, error) {
	answer, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%d %s", answer.StatusCode, body)
	}
	return answer.TLS.PeerCertificates[0].SerialNumber.String(), err
}

func (seen *tally) take(serial string, err error) {
	seen.Lock()
	defer seen.Unlock()
	seen.sent++
	if err != nil {
		seen.failed++
		seen.last = err.Error()
		return
	}
	seen.server[serial] = true
}
