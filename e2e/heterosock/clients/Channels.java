// Channels serve PORT | call PORT SECONDS: an echo by a selector, and clients of every kind that Java has.
import java.io.EOFException;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.net.SocketTimeoutException;
import java.nio.ByteBuffer;
import java.nio.channels.ClosedChannelException;
import java.nio.channels.FileChannel;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;

public class Channels {
  static InetSocketAddress address;

  static void serve() throws IOException {
    Selector selector = Selector.open();
    ServerSocketChannel listener = ServerSocketChannel.open();
    listener.bind(address);
    listener.configureBlocking(false);
    listener.register(selector, SelectionKey.OP_ACCEPT);
    while (true) {
      selector.select();
      for (SelectionKey key : selector.selectedKeys()) {
        if (!key.isValid()) continue;
        if (key.isAcceptable()) {
          SocketChannel accepted = listener.accept();
          if (accepted == null) continue;
          accepted.configureBlocking(false);
          accepted.register(selector, SelectionKey.OP_READ, ByteBuffer.allocateDirect(65536));
        } else {
          echo(key);
        }
      }
      selector.selectedKeys().clear();
    }
  }

  static void echo(SelectionKey key) throws IOException {
    SocketChannel channel = (SocketChannel) key.channel();
    ByteBuffer buffer = (ByteBuffer) key.attachment();
    try {
      if (key.isReadable() && channel.read(buffer) < 0) {
        channel.close();
        return;
      }
      buffer.flip();
      channel.write(buffer);
      buffer.compact();
      int read = buffer.hasRemaining() ? SelectionKey.OP_READ : 0;
      key.interestOps(buffer.position() > 0 ? SelectionKey.OP_WRITE | read : read);
    } catch (IOException e) {
      channel.close();
    }
  }

  static void readFully(SocketChannel channel, ByteBuffer buffer) throws IOException {
    while (buffer.hasRemaining()) {
      if (channel.read(buffer) < 0) throw new EOFException();
    }
  }

  static void roundTrips(SocketChannel channel, ByteBuffer buffer, int count) throws IOException {
    for (int i = 0; i < count; ++i) {
      buffer.clear();
      channel.write(buffer);
      buffer.clear();
      readFully(channel, buffer);
    }
  }

  // A reader that waits while another thread closes, or interrupts it.
  static String disturbed(boolean interrupt) throws Exception {
    SocketChannel channel = SocketChannel.open(address);
    roundTrips(channel, ByteBuffer.allocate(8), 100);
    CompletableFuture<String> end = new CompletableFuture<>();
    Thread reader = new Thread(() -> {
      try {
        end.complete("read " + channel.read(ByteBuffer.allocate(10)));
      } catch (IOException e) {
        // Which of its kinds depends on whether the read had begun.
        end.complete(e instanceof ClosedChannelException ? "closed" : e.toString());
      }
    });
    reader.start();
    Thread.sleep(100);
    if (interrupt) reader.interrupt();
    else channel.close();
    return end.get(20, TimeUnit.SECONDS);
  }

  static String socket() throws IOException {
    try (Socket socket = new Socket("127.0.0.1", address.getPort())) {
      byte[] bytes = new byte[50];
      for (int i = 0; i < 200; ++i) {
        socket.getOutputStream().write(bytes);
        socket.getInputStream().readNBytes(bytes, 0, 50);
      }
      socket.setSoTimeout(100);
      try {
        return "read " + socket.getInputStream().read();
      } catch (SocketTimeoutException e) {
        socket.setSoTimeout(0);
        socket.shutdownOutput();
        return "timeout, then " + socket.getInputStream().read();
      }
    }
  }

  // A file by transferTo(), and back into one by transferFrom().
  static String files() throws Exception {
    Path from = Files.createTempFile(Path.of("."), "from", ""), to = Files.createTempFile(Path.of("."), "to", "");
    byte[] bytes = new byte[3_000_000];
    new Random(1).nextBytes(bytes);
    Files.write(from, bytes);
    SocketChannel channel = SocketChannel.open(address);
    roundTrips(channel, ByteBuffer.allocate(8), 100);
    CompletableFuture<Long> received = CompletableFuture.supplyAsync(() -> {
      try (FileChannel file = FileChannel.open(to, StandardOpenOption.WRITE)) {
        long at = 0;
        for (long n = 1; n > 0 && at < bytes.length; at += n) n = file.transferFrom(channel, at, bytes.length - at);
        return at;
      } catch (IOException e) {
        return -1L;
      }
    });
    try (FileChannel file = FileChannel.open(from)) {
      for (long at = 0; at < bytes.length;) at += file.transferTo(at, 300_000, channel);
    }
    String said = received.get(20, TimeUnit.SECONDS) + " bytes, differ at " + Files.mismatch(from, to);
    channel.close();
    return said;
  }

  static void call(double seconds) throws Exception {
    List<String> said = new ArrayList<>(List.of(disturbed(false), disturbed(true), socket(), files()));
    SocketChannel channel = SocketChannel.open(address);
    ByteBuffer buffer = ByteBuffer.allocateDirect(64);
    roundTrips(channel, buffer, 1000);
    long start = System.nanoTime(), count = 0;
    for (; System.nanoTime() - start < seconds * 1e9; count += 100) roundTrips(channel, buffer, 100);
    double rate = count / ((System.nanoTime() - start) / 1e9);
    System.out.println("{\"said\": [\"" + String.join("\", \"", said) + "\"], \"rate\": " + rate + "}");
  }

  public static void main(String[] arguments) throws Exception {
    address = new InetSocketAddress("127.0.0.1", Integer.parseInt(arguments[1]));
    if (arguments[0].equals("serve")) serve();
    call(Double.parseDouble(arguments[2]));
    System.exit(0);
  }
}
